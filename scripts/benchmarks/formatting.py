"""Numbers as the benchmarks print them."""

from collections.abc import Mapping, Sequence


def show_span(ends: Sequence[float], digits: int) -> str:
    """Return "1.02 to 1.05", or one number where both are printed alike."""
    lower, upper = (f"{end:.{digits}f}" for end in ends)
    return lower if lower == upper else f"{lower} to {upper}"


def show_caches(sizes: Mapping[str, int]) -> str:
    """Return "L1 48 KiB, L2 2 MiB" for the bytes of each cache."""
    return ", ".join(
        f"{level} {size / 2**20:g} MiB" if size >= 2**20 else f"{level} {size / 2**10:g} KiB"
        for level, size in sizes.items()
    )
