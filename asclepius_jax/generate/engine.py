"""Continuous batching: a fixed number of slots over one compiled step, where a finished answer makes room for the next.

An answer depends on its request alone: neither on the slot, the order and the number of slots, nor on the mesh. In
float32 that holds to the token, unless two tokens are equally likely to the last bits.
"""

import dataclasses
import itertools
from collections import deque
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from asclepius_jax.generate.programs import MOST_STEPS, DType, in_compute_type, param_formats
from asclepius_jax.generate.replica import Answer, Capacity, Replica, Request, pages_of, replicas_of
from asclepius_jax.model.decoder import Model, Params
from asclepius_jax.model.kernels.paged_cache import PAGE
from data_prep.contract.errors import UserError


class Engine:
    """Decodes requests on every replica of a model: the mesh's axis `data`, each with slots and a cache of its own.

    Not safe for use by several threads. `ends` are the ids that end an answer; they are not part of it.
    """

    def __init__(
        self, model: Model, params: Params, ends: Sequence[int], capacity: Capacity | None = None,
        dtype: DType = "bfloat16",
    ):  # fmt: skip
        capacity = capacity or Capacity()
        self.max_length = min(capacity.max_length or model.config.context, model.config.context)
        self.capacity = dataclasses.replace(capacity, max_length=self.max_length)
        self.model = model
        self.waiting: deque[Answer] = deque()
        ends_E = np.array(sorted(set(ends)) or [-1], np.int32)
        self.replicas = [
            Replica(model, in_compute_type(part, dtype, param_formats(mesh, model)), mesh, self.capacity, ends_E, dtype)
            for mesh, part in replicas_of(model, params)
        ]

    def check(self, request: Request) -> None:
        """Raise UserError for a request that no slot can take."""
        prompt, new = len(request.prompt), request.max_new_tokens
        if not prompt:
            raise UserError("a prompt is empty: it needs at least the token that begins a text")
        if prompt + new > self.max_length:
            raise UserError(
                f"{prompt} prompt tokens and {new} new tokens exceed the maximum length of {self.max_length}: shorten "
                "the note or ask for fewer new tokens"
            )
        if pages_of(request) > (room := self.replicas[0].num_pages):
            raise UserError(
                f"{prompt} prompt tokens and {new} new tokens exceed the cache of {room * PAGE} tokens: use a larger "
                "cache or more devices of mesh.tensor, or ask for fewer new tokens"
            )

    def add(self, request: Request) -> Answer:
        """Queue a request; `step` extends the returned answer. Raises UserError if no slot can take it."""
        self.check(request)
        answer = Answer(request)
        self.waiting.append(answer)
        return answer

    def cancel(self, answer: Answer) -> None:
        """End an answer now; its slot is free for the next request."""
        if answer.finish:
            return
        answer.finish = "cancelled"
        if answer in self.waiting:
            self.waiting.remove(answer)
        for replica in self.replicas:
            replica.free_finished()

    @property
    def busy(self) -> bool:
        return bool(self.waiting) or any(replica.answers for replica in self.replicas)

    def step(self, most_tokens: int = MOST_STEPS) -> list[Answer]:
        """Read waiting prompts into free slots, draw up to `most_tokens` per slot, and return the extended answers.

        While requests wait, a step ends with the first answer that does.
        """
        # Work is dispatched to all replicas before any result is awaited.
        read = [replica.read_prompts(self.waiting) for replica in self.replicas]
        changed = [answer for result in read for answer in result()]
        drawn = [replica.draw(most_tokens, bool(self.waiting)) for replica in self.replicas]
        changed += [answer for result in drawn for answer in result()]
        return list(dict.fromkeys(changed))

    def run(self, requests: Iterable[Request]) -> Iterator[tuple[int, Answer]]:
        """Answer all requests, yielding (place, answer) as they finish. Requests are taken when there is room."""
        source, places = iter(enumerate(requests)), {}
        slots = self.capacity.slots * len(self.replicas)
        while True:
            for place, request in itertools.islice(source, slots - len(self.waiting)):
                places[self.add(request)] = place
            if not self.busy:
                return
            for answer in self.step():
                if answer.finish:
                    yield places.pop(answer), answer
