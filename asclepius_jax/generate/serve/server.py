"""`asclepius serve`: a model behind OpenAI's chat completions.

asclepius serve --checkpoint runs/instruct --name mine
"""

import contextlib
import dataclasses
import ipaddress
import os
import socket
import tempfile
from pathlib import Path
from typing import Any, Literal, NamedTuple

import uvicorn

from asclepius_jax.checkpoint.read import of_newest, read_meta
from asclepius_jax.config import MeshConfig
from asclepius_jax.convert.import_hf import read_folder
from asclepius_jax.generate.engine import Engine
from asclepius_jax.generate.load import load_checkpoint_to_decode, load_folder
from asclepius_jax.generate.replica import Capacity, Request
from asclepius_jax.generate.serve.chat_prompts import ChatTemplatePrompts, Prompts, TrainingPrompts
from asclepius_jax.generate.serve.engine_thread import EngineThread
from asclepius_jax.generate.serve.routes import Served, application
from asclepius_jax.generate.serve.token_text import Vocabulary
from asclepius_jax.model.decoder import Model, Params
from data_prep.contract.errors import UserError
from data_prep.contract.hub import WEIGHTS, local_folder
from data_prep.contract.prompt.training_prompt import TRAINING_TEMPLATE
from data_prep.contract.tokenizer import JsonTokenizer, Tokenizer

KEY_VARIABLE = "ASCLEPIUS_API_KEY"
SECONDS_TO_FINISH = 20  # for answers in progress when the server is told to end


@dataclasses.dataclass(frozen=True)
class ServeConfig:
    """Answer requests of OpenAI's chat completions."""

    checkpoint: Path | None = None
    """Run folder (its newest step), or RUN/checkpoints/STEP. Messages become its training prompt: system is the note,
    user the instruction."""
    hf: Path | None = None
    """Hugging Face folder or hub id of a model with a chat template; use either this or --checkpoint."""
    name: str = ""
    """Name of the model for clients; empty takes the name of the folder."""
    host: str = "127.0.0.1"
    """Address to listen on. The default is reachable from this machine only; any other needs an API key."""
    port: int = 8000
    """Port to listen on; 0 takes any free port."""
    key_variable: str = KEY_VARIABLE
    """Environment variable that holds the API key."""
    key_file: Path | None = None
    """File that holds the API key, instead of an environment variable."""
    max_waiting: int = 256
    """Most requests that wait for a slot; further ones are refused with status 429."""
    capacity: Capacity = dataclasses.field(default_factory=Capacity)
    mesh: MeshConfig = dataclasses.field(default_factory=MeshConfig)
    """Devices along each axis. The default chooses as many replicas of the model as memory allows, as `asclepius plan
    --decode` does."""
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    """Type of the computation and of the cache."""


class Loaded(NamedTuple):
    """A model with its tokenizer and its form of prompts."""

    model: Model
    params: Params
    tokenizer: JsonTokenizer
    prompts: Prompts


def run(config: ServeConfig) -> None:
    """Serve until interrupted. Raises UserError for invalid settings or an unreadable model."""
    check(config)
    key = api_key(config)
    with bound(config.host, config.port, key) as listener:
        loaded = load(config)
        engine = ready_engine(config, loaded)
        serve(config, key, loaded, engine, listener)


def check(config: ServeConfig) -> None:
    if (config.checkpoint is None) == (config.hf is None):
        raise UserError("name one model: either --checkpoint RUN or --hf FOLDER")
    if not 0 <= config.port <= 65535:  # getaddrinfo would take it modulo 65536
        raise UserError(f"--port {config.port}: must be between 0 and 65535")
    capacity = config.capacity
    at_least = {"max-waiting": (config.max_waiting, 0), "capacity.slots": (capacity.slots, 1),
                "capacity.max-length": (capacity.max_length, 0), "capacity.cache-tokens": (capacity.cache_tokens, 0),
                "capacity.prefill-tokens": (capacity.prefill_tokens, 1)}  # fmt: skip
    for flag, (value, least) in at_least.items():
        if value < least:
            raise UserError(f"--{flag} {value}: it must be {least} or more")


def api_key(config: ServeConfig) -> str:
    """The API key, or nothing. Raises UserError for a key that is empty or that no client can send."""
    if config.key_file:
        if not config.key_file.is_file():
            raise UserError(f"--key-file {config.key_file}: no such file")
        where, key = f"--key-file {config.key_file}", config.key_file.read_text(encoding="utf-8").strip()
    else:
        where, key = f"the environment variable {config.key_variable}", os.environ.get(config.key_variable, "").strip()
        if not key and config.key_variable == KEY_VARIABLE:
            return ""
    if not key or not key.isascii() or not key.isprintable():
        raise UserError(f"{where} holds no API key: store one line of printable ASCII characters there")
    return key


def bound(host: str, port: int, key: str) -> socket.socket:
    """A socket with an address, on which nothing listens before the model is ready.

    Raises UserError for an unusable address, and without a key for one that other machines can reach.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        if not key and not ipaddress.ip_address(address[0]).is_loopback:
            raise UserError(
                f"--host {host} can be reached from other machines: set an API key in {KEY_VARIABLE} or --key-file"
            )
        listener = socket.socket(family)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        raise UserError(f"cannot listen on {host} port {port} ({error.strerror}): choose another --port") from error
    return listener


def load(config: ServeConfig) -> Loaded:
    if config.checkpoint:
        template = of_newest(config.checkpoint, read_meta).prompt_template or TRAINING_TEMPLATE
        model, params, tokenizer = load_checkpoint_to_decode(config.checkpoint, config.mesh)
        return Loaded(model, params, tokenizer, TrainingPrompts(template, tokenizer))
    assert config.hf
    folder = local_folder(config.hf, WEIGHTS)
    if not (folder / "config.json").is_file():
        raise UserError(f"--hf {folder} is not a Hugging Face folder: config.json is missing")
    prompts = ChatTemplatePrompts(folder)  # before the weights, because base models have no template
    _, source = read_folder(folder)
    model, params = load_folder(folder, config.dtype, config.mesh)
    return Loaded(model, params, as_json_tokenizer(source), prompts)


def as_json_tokenizer(tokenizer: Tokenizer) -> JsonTokenizer:
    if isinstance(tokenizer, JsonTokenizer):
        return tokenizer
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save(Path(folder))
        return JsonTokenizer(Path(folder))


def ready_engine(config: ServeConfig, loaded: Loaded) -> Engine:
    """An engine that has answered once, so that what does not fit or compile fails before the first client."""
    model, params, tokenizer, _ = loaded
    try:
        engine = Engine(model, params, tokenizer.ends, config.capacity, config.dtype)
        list(engine.run([Request((tokenizer.eos_id,), 2)] if engine.max_length > 2 else []))
    except Exception as error:
        if "RESOURCE_EXHAUSTED" in str(error):
            raise UserError(
                "the model and its cache exceed the memory of a device: lower --capacity.max-length or "
                "--capacity.slots, or set --capacity.cache-tokens"
            ) from error
        raise
    return engine


def announce(listener: socket.socket, name: str, capacity: str) -> None:
    """Listen, then say so: whoever reads the line may connect at once, before the server accepts."""
    listener.listen()
    host, port = listener.getsockname()[:2]
    host = f"[{host}]" if ":" in host else host
    print(f"Serving {name} on http://{host}:{port}/v1, {capacity}; press Ctrl-C to stop", flush=True)


def serve(config: ServeConfig, key: str, loaded: Loaded, engine: Engine, listener: socket.socket) -> None:
    def end() -> None:
        server.should_exit = True

    thread = EngineThread(engine, Vocabulary(loaded.tokenizer), config.max_waiting, end)
    name = config.name or (config.hf or config.checkpoint or Path()).resolve().name
    # No log configuration: uvicorn's would close the handlers of other code, and its access log contains addresses.
    settings: Any = uvicorn.Config(
        application(Served(name, key, loaded.prompts, thread)),
        log_config=None, log_level="warning", access_log=False, server_header=False, lifespan="off",
        timeout_graceful_shutdown=SECONDS_TO_FINISH,
    )  # fmt: skip
    server = uvicorn.Server(settings)
    announce(listener, name, f"{thread.slots} slots of {engine.max_length} tokens")
    thread.start()
    with contextlib.suppress(KeyboardInterrupt):  # uvicorn raises it again after shutting down
        server.run(sockets=[listener])
    thread.stop()
    if thread.error is not None:
        raise thread.error
