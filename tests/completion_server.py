"""A small server with vLLM's API for completions and adapters, which computes with transformers and PEFT."""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

BASE = "tiny"


class CompletionServer:
    """Adapters are loaded and unloaded as in vLLM: a name that is taken or unknown is refused.

    Attributes:
        received: path and body of each request.
        status: if set, every request is answered with it.
        pause_s: seconds before an answer to a completion.
    """

    def __init__(self, folder: Path, api_key: str) -> None:
        self._folder, self.api_key = folder, api_key
        self._tokenizer = AutoTokenizer.from_pretrained(folder)
        self.adapters: dict[str, Any] = {}
        self._base = self._load()
        self._lock = threading.Lock()
        self.received: list[tuple[str, dict[str, Any]]] = []
        self.status, self.pause_s, self.has_logprobs = 0, 0.0, True
        self.broken_pipes = 0

    def restart(self) -> None:
        """Forget the adapters, as a new process does."""
        self.adapters.clear()

    def answer(self, path: str, key: str | None, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        self.received.append((path, body))
        if self.status:
            return self.status, {"error": {"message": "as the test wants it"}}
        if key != f"Bearer {self.api_key}":
            return 401, {"error": "Unauthorized"}
        with self._lock:
            return self._dispatch(path, body)

    def _dispatch(self, path: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        name = body.get("lora_name", body.get("model"))
        if path == "/v1/load_lora_adapter":
            if name in self.adapters:
                return 400, {"message": f"The lora adapter '{name}' has already been loaded."}
            if not Path(body["lora_path"]).is_dir():
                return 404, {"message": f"No adapter found for {body['lora_path']}"}
            self.adapters[name] = PeftModel.from_pretrained(self._load(), body["lora_path"])
            return 200, {}
        if path == "/v1/unload_lora_adapter":
            return (200, {}) if self.adapters.pop(name, None) is not None else (404, {})
        if path != "/v1/completions" or (name != BASE and name not in self.adapters):
            return 404, {"error": {"message": f"The model `{name}` does not exist."}}
        time.sleep(self.pause_s)
        return 200, self._complete(self.adapters.get(name, self._base), body)

    @torch.inference_mode()
    def _complete(self, model: Any, body: dict[str, Any]) -> dict[str, Any]:
        assert body["temperature"] == 0
        prompt = torch.tensor([body["prompt"]])
        output = model.generate(
            input_ids=prompt,
            attention_mask=torch.ones_like(prompt),
            do_sample=False,
            max_new_tokens=body["max_tokens"],
            output_scores=True,
            return_dict_in_generate=True,
        )
        tokens = output.sequences[0, prompt.shape[1] :].tolist()
        logprobs = [float(s[0].log_softmax(-1)[t]) for s, t in zip(output.scores, tokens, strict=True)]
        is_ended = tokens[-1] == self._tokenizer.eos_token_id
        choice = {
            "index": 0,
            "text": self._tokenizer.decode(tokens, skip_special_tokens=True),
            "finish_reason": "stop" if is_ended else "length",
            "logprobs": {"token_logprobs": logprobs} if self.has_logprobs else None,
        }
        return {"object": "text_completion", "choices": [choice]}

    def _load(self) -> Any:
        return AutoModelForCausalLM.from_pretrained(self._folder).eval()


@contextmanager
def running(folder: Path, api_key: str = "secret") -> Iterator[tuple[str, CompletionServer]]:
    """A running server of the model in a folder; yields its address too."""
    server = CompletionServer(folder, api_key)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            status, answer = server.answer(self.path, self.headers.get("Authorization"), body)
            content = json.dumps(answer).encode()
            try:
                self.send_response(status)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)
            except (BrokenPipeError, ConnectionResetError):
                server.broken_pipes += 1

        def log_message(self, *_: Any) -> None:
            """Nothing."""

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=http.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{http.server_port}", server
    finally:
        http.shutdown()
        http.server_close()
        thread.join()
