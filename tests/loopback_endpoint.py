"""An endpoint on 127.0.0.1 that misbehaves as asked, in a process of its own: `python loopback_endpoint.py FOLDER`.

FOLDER/behaviour.json maps items ("17 following") to what their requests get, one word per attempt; the last word holds
for all further attempts. Other items get "default". FOLDER/requests.jsonl gets a line for each request, FOLDER/port the
port when the server listens.
"""

import asyncio
import json
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

PERSPECTIVES = {
    "INSTRUCTION FOLLOWING": "following",
    "DETAIL PRESERVING": "preserving",
    "GENERATION QUALITY": "quality",
}
SLOW = 1.0  # seconds of an answer with "slow"


def verdict(item: str) -> str:
    """The same answer to an item each time."""
    return json.dumps({"score": sum(map(ord, item)) % 6, "feedback": f"fault of {item}"})


def completion(content: Any, finish: str = "stop", **message: Any) -> bytes:
    choice = {"index": 0, "message": {"role": "assistant", "content": content, **message}, "finish_reason": finish}
    usage = {"prompt_tokens": 1000, "completion_tokens": 50, "total_tokens": 1050}
    return json.dumps(
        {"id": "x", "object": "chat.completion", "model": "served", "choices": [choice], "usage": usage}
    ).encode()


def response(word: str, item: str, headers: dict[str, str], body: dict) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of a behaviour."""
    good = verdict(item)
    contents = {
        "prose": f"Here is my judgement:\n```json\n{good}\n```\nI hope this helps.",
        "cut": good[:-9],
        "keys": '{"rating": 3, "feedback": "x"}',
        "seven": '{"score": 7, "feedback": "x"}',
        "empty": "",
        "refusal": "I'm sorry, but I can't assist with that request.",
        "echo": json.dumps({"score": 1, "feedback": headers.get("authorization", "")}),
    }
    errors = {"429": 429, "429after": 429, "500": 500, "401": 401, "404": 404, "400": 400, "quota": 429, "filter": 400}
    if word in errors:
        messages = {"quota": "insufficient_quota", "filter": "content_filter: flagged"}
        message = messages.get(word, f"no {word}, you sent {headers.get('authorization')}")
        error = {"error": {"message": message, "code": messages.get(word)}}
        return errors[word], {"retry-after": "1"} if word == "429after" else {}, json.dumps(error).encode()
    if word == "plain" and "response_format" in body:
        return 400, {}, b'{"error": {"message": "response_format json_schema is not supported"}}'
    if word == "not json":
        return 200, {}, b"{"
    if word == "field":
        return 200, {}, completion(None, refusal="I will not judge this.")
    return 200, {}, completion(contents.get(word, good), "length" if word == "cut" else "stop")


class Server:
    def __init__(self, folder: Path):
        self.folder, self.attempts, self.numbers = folder, Counter(), {}
        self.behaviour = json.loads((folder / "behaviour.json").read_text())
        self.log = (folder / "requests.jsonl").open("a")

    async def serve(self) -> None:
        server = await asyncio.start_server(self.connection, "127.0.0.1", 0)
        unfinished = self.folder / "port.part"
        unfinished.write_text(str(server.sockets[0].getsockname()[1]))
        unfinished.rename(self.folder / "port")
        await server.serve_forever()

    async def connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while line := await reader.readline():
                assert line.startswith(b"POST /v1/chat/completions "), line
                headers = {}
                while (header := await reader.readline()).strip():
                    name, _, value = header.decode().partition(":")
                    headers[name.lower()] = value.strip()
                body = json.loads(await reader.readexactly(int(headers["content-length"])))
                if not await self.answer(headers, body, writer):
                    break
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async def number(self, text: str, image: dict) -> str:
        """The number of the edit; of a question without an instruction, that of another one about the same image."""
        if found := re.search(r"edit (\d+)", text):
            self.numbers[str(image)] = found[1]
        for _ in range(500):
            if str(image) in self.numbers:
                break
            await asyncio.sleep(0.01)
        return self.numbers[str(image)]

    async def answer(self, headers: dict[str, str], body: dict, writer: asyncio.StreamWriter) -> bool:
        text = body["messages"][0]["content"][0]["text"]
        labels = [part["text"] for part in body["messages"][0]["content"][1:] if part["type"] == "text"]
        number = await self.number(text, body["messages"][0]["content"][labels[0].startswith("Source") * 2 + 2])
        item = f"{number} {next(name for words, name in PERSPECTIVES.items() if words in text)}"
        words = self.behaviour.get(item, [self.behaviour.get("default", "ok")])
        word = words[min(self.attempts[item], len(words) - 1)]
        self.attempts[item] += 1
        began = time.time()
        await asyncio.sleep({"silence": 3600, "slow": SLOW}.get(word, self.behaviour.get("delay", 0)))
        line = {"item": item, "word": word, "began": began, "seconds": time.time() - began, "first": labels[0]}
        self.log.write(json.dumps(line | {"seed": body.get("seed")}) + "\n")
        self.log.flush()
        if word == "close":
            return False
        status, more, data = response(word, item, headers, body)
        head = {"content-type": "application/json", "content-length": str(len(data)), **more}
        lines = [f"HTTP/1.1 {status} X", *(f"{name}: {value}" for name, value in head.items()), "", ""]
        writer.write("\r\n".join(lines).encode() + data)
        await writer.drain()
        return True


class Running:
    """A server in a process."""

    def __init__(self, folder: Path):
        self.folder = folder

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{(self.folder / 'port').read_text()}/v1"

    def requests(self) -> list[dict[str, Any]]:
        """The requests that were answered, or closed, so far."""
        return [json.loads(line) for line in (self.folder / "requests.jsonl").read_text().splitlines()]


@contextmanager
def endpoint(folder: Path, behaviour: dict[str, Any] | None = None) -> Iterator[Running]:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "behaviour.json").write_text(json.dumps(behaviour or {}))
    (folder / "port").unlink(missing_ok=True)
    process = subprocess.Popen([sys.executable, __file__, folder])
    try:
        for _ in range(1000):
            if (folder / "port").exists():
                break
            time.sleep(0.01)
        yield Running(folder)
    finally:
        process.kill()
        process.wait()


if __name__ == "__main__":
    asyncio.run(Server(Path(sys.argv[1])).serve())
