"""Cache of keys and values in pages of a fixed number of tokens, so that sequences of any length share one array.

Shape suffixes: B sequence, T query position, L layer, P page of the cache, M page of a sequence, C token of a page,
S = M * C key position, K key/value head, H head width.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from asclepius_jax.model.sizes import DecoderConfig

PAGE = 64  # tokens per page: on average half a page of a sequence is empty, and a page is a long copy


class PagedCache(NamedTuple):
    """Keys and values of every layer. Position s of sequence b is token s % C of page table_BM[b, s // C].

    Page 0 belongs to no sequence: padding is written there.
    """

    k_LPCKH: jax.Array
    v_LPCKH: jax.Array
    table_BM: jax.Array

    @property
    def num_positions(self) -> int:
        return self.table_BM.shape[1] * self.k_LPCKH.shape[2]

    def write(self, layer: jax.Array, positions_BT: jax.Array, k_BTKH: jax.Array, v_BTKH: jax.Array) -> "PagedCache":
        page_BT = jnp.take_along_axis(self.table_BM, positions_BT // self.k_LPCKH.shape[2], axis=1)
        place = (layer, page_BT, positions_BT % self.k_LPCKH.shape[2])
        return self._replace(k_LPCKH=self.k_LPCKH.at[place].set(k_BTKH), v_LPCKH=self.v_LPCKH.at[place].set(v_BTKH))

    def read(self, layer: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Keys and values (B, S, K, H) of a layer."""
        k_BMCKH, v_BMCKH = self.k_LPCKH[layer, self.table_BM], self.v_LPCKH[layer, self.table_BM]
        shape = (self.table_BM.shape[0], self.num_positions, *k_BMCKH.shape[3:])
        return k_BMCKH.reshape(shape), v_BMCKH.reshape(shape)


def empty_pages(config: DecoderConfig, pages: int, dtype: str) -> tuple[jax.Array, jax.Array]:
    """Keys and values of `pages` pages, and of page 0."""
    shape = (config.num_layers, pages + 1, PAGE, config.num_kv_heads, config.head_dim)
    return jnp.zeros(shape, dtype), jnp.zeros(shape, dtype)
