"""A server on loopback that serves a real tiny model as vLLM and SGLang document their answers.

Requests and answers hold what the documentation of vLLM 0.15.0 (`/v1/completions`, `/tokenize`) and
of SGLang 0.5 (`/generate`, `/tokenize`, `/update_weights_from_disk`) name; neither engine is run.
"""

import json
from collections.abc import Callable
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock, Thread

import torch
from transformers import AutoModelForCausalLM


class ServedModel:
    """A model, its tokenizer, and how the server misbehaves."""

    def __init__(self, model, tokenizer):
        self.model, self.tokenizer = model, tokenizer
        self.requests = []
        self.change: Callable[[int, str, dict], tuple[int, dict | list]] | None = None
        self._lock = Lock()

    def answer(self, path, body):
        """Status and content; one request at a time, as torch's generator is one."""
        with self._lock:
            self.requests.append((path, body))
            content = getattr(self, path.strip("/").replace("/", "_"))(body)
            if self.change is not None:
                return self.change(len(self.requests), path, content)
            return 200, content

    def tokenize(self, body):
        assert body["add_special_tokens"] is False
        ids = self.tokenizer(body["prompt"], add_special_tokens=False)["input_ids"]
        return {"count": len(ids), "max_model_len": 64, "tokens": ids}

    def v1_completions(self, body):
        prompts = body["prompt"] if isinstance(body["prompt"][0], list) else [body["prompt"]]
        choices = []
        for ids in prompts:
            scores = None
            if body.get("prompt_logprobs") is not None:
                every = [
                    self._entry(t, lp) for t, lp in zip(ids[1:], self._scores(ids), strict=True)
                ]
                scores = [None, *every]
            for n in range(body.get("n", 1)):
                tokens, logprobs = self._sampled(
                    ids, body["max_tokens"], body.get("seed", 0) + n, body.get("stop_token_ids", [])
                )
                choices.append(
                    {
                        "index": len(choices),
                        "text": self.tokenizer.decode(tokens),
                        "finish_reason": "stop",
                        "stop_reason": None,
                        "prompt_logprobs": scores,
                        "token_ids": tokens if body.get("return_token_ids") else None,
                        "logprobs": None
                        if body.get("logprobs") is None
                        else {
                            "text_offset": [0] * len(tokens),
                            "token_logprobs": logprobs,
                            "tokens": self.tokenizer.convert_ids_to_tokens(tokens),
                            "top_logprobs": [{} for _ in tokens],
                        },
                    }
                )
        # Choices come with their number; nothing promises their order.
        return {"object": "text_completion", "model": body["model"], "choices": choices[::-1]}

    def generate(self, body):
        answers = []
        how = body["sampling_params"]
        for number, ids in enumerate(body["input_ids"]):
            own = how[number] if isinstance(how, list) else how
            meta = {"prompt_tokens": len(ids), "finish_reason": {"type": "stop"}}
            if body.get("logprob_start_len", -1) == 0:
                values = [None, *self._scores(ids)]
                triples = zip(values, ids, strict=True)
                meta["input_token_logprobs"] = [[lp, token, None] for lp, token in triples]
            tokens, logprobs = self._sampled(
                ids,
                own["max_new_tokens"],
                own.get("sampling_seed", 0),
                own.get("stop_token_ids", []),
            )
            pairs = zip(logprobs, tokens, strict=True)
            meta["output_token_logprobs"] = [[lp, token, None] for lp, token in pairs]
            answers.append({"text": "", "output_ids": tokens, "meta_info": meta})
        return answers

    def update_weights_from_disk(self, body):
        self.model = AutoModelForCausalLM.from_pretrained(body["model_path"]).eval()
        return {"success": True, "message": "Succeeded to update model weights."}

    def _log_p(self, ids):
        with torch.no_grad():
            return self.model(torch.tensor([ids])).logits[0].log_softmax(-1)

    def _scores(self, ids):
        return self._log_p(ids)[:-1].gather(-1, torch.tensor(ids[1:])[:, None])[:, 0].tolist()

    def _entry(self, token, logprob):
        text = self.tokenizer.decode([token])
        return {str(token): {"logprob": logprob, "rank": 1, "decoded_token": text}}

    def _sampled(self, ids, max_tokens, seed, ends):
        generator = torch.Generator().manual_seed(seed)
        tokens, logprobs = [], []
        while len(tokens) < max_tokens and not (tokens and tokens[-1] in ends):
            log_p = self._log_p([*ids, *tokens])[-1]
            tokens.append(int(torch.multinomial(log_p.exp(), 1, generator=generator)))
            logprobs.append(float(log_p[tokens[-1]]))
        return tokens, logprobs


class _Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        status, content = self.server.served.answer(self.path, body)
        data = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        pass


@contextmanager
def serving(model, tokenizer):
    """The address of a server of the model, and what it serves."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.served = ServedModel(model.eval(), tokenizer)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", server.served
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
