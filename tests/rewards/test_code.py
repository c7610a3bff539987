"""Programs: what the sandbox is asked, what its answers mean; the sandbox here executes nothing."""

import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import ClassVar

import pytest

from offaxis.rewards.code import Outcome, code, judged_by
from offaxis.tasks.base import Document

pytest.importorskip("httpx")

TESTS = {"tests": '[{"input": "1", "output": "2"}]', "starter_code": "", "metadata": None}
DOCUMENT = Document("q", "", json.dumps(TESTS))
PROGRAM = "I think so.\n```python\nprint(1)\n```\nor rather\n```python\nprint(2)\n```\n"


class Sandbox(BaseHTTPRequestHandler):
    """Gives prepared answers to whatever is posted, and keeps what was."""

    answers: ClassVar[list] = []
    asked: ClassVar[list] = []

    def do_POST(self):
        length = int(self.headers["Content-Length"])
        self.asked.append(json.loads(self.rfile.read(length)))
        status, content = self.answers.pop(0)
        self.send_response(status)
        self.end_headers()
        self.wfile.write(content.encode())

    def log_message(self, *_):
        pass


@pytest.fixture
def sandbox():
    Sandbox.answers.clear()
    Sandbox.asked.clear()
    with HTTPServer(("127.0.0.1", 0), Sandbox) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/run"
        server.shutdown()
        thread.join()


def answered(url, status, content, **settings):
    Sandbox.answers.append((status, content))
    scorer = code(url=url, concurrency=1, deadline_seconds=2.0, **settings)
    return scorer([DOCUMENT], [PROGRAM], key="")[0]


def test_the_sandbox_is_given_the_last_program_and_the_tests(sandbox):
    assert answered(sandbox, 200, '{"passed": 4, "total": 4}') == 1.0
    assert Sandbox.asked == [
        {
            "language": "python",
            "code": "print(2)\n",
            "tests": {
                "tests": [{"input": "1", "output": "2"}],
                "starter_code": "",
                "metadata": None,
            },
            "deadline_seconds": 2.0,
        }
    ]


def test_all_tests_have_to_pass_unless_fewer_are_asked_for(sandbox):
    assert answered(sandbox, 200, '{"passed": 3, "total": 4}') == 0.0
    assert answered(sandbox, 200, '{"passed": 3, "total": 4}', threshold=0.75) == 1.0


@pytest.mark.parametrize(
    ("status", "content"),
    [
        (500, '{"passed": 4, "total": 4}'),
        (200, "no JSON"),
        (200, "[]"),
        (200, '{"passed": 4}'),
        (200, '{"passed": true, "total": 1}'),
        (200, '{"passed": 5, "total": 4}'),
        (200, '{"passed": 0, "total": 0}'),
    ],
)
def test_what_is_no_outcome_is_no_judgement(sandbox, status, content):
    assert answered(sandbox, status, content) is None


def test_a_sandbox_that_is_not_there_is_no_judgement():
    scorer = code(url="http://127.0.0.1:9/run", deadline_seconds=0.5)
    assert scorer([DOCUMENT], [PROGRAM], key="") == [None]
    assert code(url="not an address")([DOCUMENT], [PROGRAM], key="") == [None]


def test_what_needs_no_sandbox_asks_none():
    class Untouched:
        def run(self, code, tests):
            raise AssertionError

    scorer = judged_by(Untouched())
    documents = [DOCUMENT, Document("q", "", "")]
    assert scorer(documents, ["no program", PROGRAM], key="") == [0.0, None]


def test_any_runner_serves():
    class Half:
        def run(self, code, tests):
            return Outcome(1, 2) if tests else None

    assert judged_by(Half(), threshold=0.5)([DOCUMENT], [PROGRAM], key="") == [1.0]
