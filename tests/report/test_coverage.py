"""What was paired, under which names, and what was not, on the page."""

from offaxis.report import write_report

COVERAGE = {
    "paired": 37,
    "share_of_anchor": 0.9951,
    "share_of_checkpoint": 1.0,
    "renamed": [
        {"anchor": "model.layers.*.up_proj", "checkpoint": "m.<b>.layers.*.up_proj", "tensors": 12}
    ],
    "resized": [{"tensor": "embed_tokens.weight", "in_anchor": 24, "in_checkpoint": 32}],
    "only_in_anchor": [f"vision.{i}" for i in range(60)],
    "only_in_checkpoint": ["value_head"],
    "absent": {"model.layers.0.k_proj": [5, 9]},
    "tied": ["lm_head.weight is embed_tokens.weight"],
    "notes": ["the head is the embedding in the anchor alone"],
}


def test_coverage_is_on_the_page(tmp_path, arms, results) -> None:
    folder = results(tmp_path, arms)
    manifest = folder.manifest()
    manifest["coverage"] |= COVERAGE
    folder.write_manifest({key: value for key, value in manifest.items() if key != "version"})
    page = write_report(tmp_path).read_text("utf-8")
    for text in (
        "37 matrices and vectors paired: 99.51% of the anchors",
        "100.00% of the checkpoints",
        "of 24 in the anchor and 32 in the checkpoint",
        "60 only in the anchor",
        "vision.49 and 10 more in manifest.json",
        "1 only in a checkpoint",
        "model.layers.0.k_proj (step 5, 9)",
        "tied: lm_head.weight is embed_tokens.weight",
        "the head is the embedding in the anchor alone",
        "m.&lt;b&gt;.layers.*.up_proj",
    ):
        assert text in page
    assert "vision.50" not in page
    assert "m.<b>" not in page
