"""Cached prompt beginnings: found by exact tokens, bounded, least recently used out first."""

import torch

from leyden_inference.architecture import Architecture
from leyden_inference.decoder import Cache
from leyden_inference.prefix import BLOCK, PrefixCache

ARCH = Architecture(
    family="llama",
    vocabulary=10,
    hidden=4,
    intermediate=4,
    layers=2,
    heads=2,
    kv_heads=2,
    head_dim=2,
    context=128,
    rope_theta=1e4,
    norm_eps=1e-6,
    tied=True,
)


def filled(rows: int) -> Cache:
    cache = Cache(ARCH, rows, 128)
    cache.keys.normal_()
    cache.values.normal_()
    return cache


def test_a_restored_beginning_equals_the_one_remembered() -> None:
    cache = filled(3)
    prefixes = PrefixCache(cache, 10 * BLOCK)
    tokens = list(range(3 * BLOCK + 5))
    prefixes.remember(tokens, 0, len(tokens))
    assert prefixes.restore([*tokens[: 2 * BLOCK], 99, 99], 2) == 2 * BLOCK
    keys, values = (part[:, :, :, : 2 * BLOCK] for part in (cache.keys, cache.values))
    assert torch.equal(keys[:, 2], keys[:, 0])
    assert torch.equal(values[:, 2], values[:, 0])
    assert not torch.equal(cache.keys[:, 2], cache.keys[:, 0])


def test_the_last_token_is_always_left_to_compute() -> None:
    prefixes = PrefixCache(filled(1), 10 * BLOCK)
    tokens = list(range(2 * BLOCK))
    prefixes.remember(tokens, 0, len(tokens))
    assert prefixes.known(tokens) == BLOCK
    assert prefixes.known([*tokens, 1]) == 2 * BLOCK
    assert prefixes.known([7]) == 0


def test_only_what_is_written_is_remembered_and_the_same_block_after_others_is_another() -> None:
    prefixes = PrefixCache(filled(1), 10 * BLOCK)
    ones, twos = [1] * BLOCK, [2] * BLOCK
    prefixes.remember([*ones, *twos], 0, 2 * BLOCK - 1)
    assert prefixes.known([*ones, *twos, 0]) == BLOCK
    prefixes.remember([*ones, *twos], 0, 2 * BLOCK)
    assert prefixes.known([*ones, *twos, 0]) == 2 * BLOCK
    assert prefixes.known([*twos, *twos, 0]) == 0


def test_the_least_recently_used_makes_room() -> None:
    prefixes = PrefixCache(filled(1), 2 * BLOCK)
    texts = [[value] * BLOCK for value in range(3)]
    prefixes.remember(texts[0], 0, BLOCK)
    prefixes.remember(texts[1], 0, BLOCK)
    assert prefixes.known([*texts[0], 9]) == BLOCK
    prefixes.remember(texts[2], 0, BLOCK)
    assert [prefixes.known([*text, 9]) for text in texts] == [BLOCK, 0, BLOCK]


def test_a_prefix_longer_than_the_cache_is_kept_as_far_as_it_fits() -> None:
    prefixes = PrefixCache(filled(1), 2 * BLOCK)
    tokens = list(range(5 * BLOCK))
    prefixes.remember(tokens, 0, len(tokens))
    assert prefixes.known(tokens) == 2 * BLOCK


def test_without_room_nothing_is_kept() -> None:
    prefixes = PrefixCache(filled(1), 0)
    prefixes.remember([1] * 64, 0, 64)
    assert prefixes.restore([1] * 64, 0) == 0
