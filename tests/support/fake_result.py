"""The result of a stage that did nothing. Plain values: fake jobs import this file alone, in a bare Python."""


def result_of(request, uri, **more):
    """A result that fits the request."""
    return {
        "stage": request["stage"],
        "model": request["model"]["name"],
        "fingerprint": "f" * 64,
        "spec_hash": "5" * 64,
        "code_version": "test",
        "rows": 7,
        "uri": str(uri),
        **more,
    }
