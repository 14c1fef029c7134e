"""How programs of one launch add up tiles that each holds a part of, without stopping for one another.

Whoever waits for a flag that says "all is written" pays for a fence, the flag and the reading, some 5 microseconds on
an H200. Here every 32-bit word brings its own flag: its lowest 8 bits are the turn's number instead of the end of a
mantissa, whose upper 15 bits stay, and a reader takes a word again until that number is right. Threads write to threads
with the same number, which hold the same places of the tile, so that nothing else orders them: no barrier, no fence.

A part has two places, taken in turn. Who writes a place the second time has read what the others wrote in between, and
they wrote that from what they had read at the first time: so nobody still reads it. The places are zeros before a
launch and turns are never 0, so nothing is taken for written that is not.

That all programs of a group run at the same time is for the caller to see to: they take their numbers as they start.
"""

from triton import constexpr_function
from triton.language import constexpr

from titanlab.memory_modules.kernels.hopper.tiles import jit, lang


@constexpr_function
def _numbered(first: int, count: int) -> list[str]:
    return [f"${number}" for number in range(first, first + count)]


@constexpr_function
def _text_of_writing(count: int, threads: int) -> str:
    """PTX: writes `count` words of this thread, each with the turn's number; $count.. are words, place and turn."""
    words, place, turn = _numbered(count, count), f"${2 * count}", f"${3 * count}"
    lines = ["{ .reg .b32 t; .reg .b64 a;", "mov.u32 t, %tid.x;", f"mad.wide.u32 a, t, 16, {place};"]
    for number, word in enumerate(words):
        # (word & ~255) | turn
        lines.append(f"lop3.b32 ${number}, {word}, 0xffffff00, {turn}, 0xea;")
    for number in range(0, count, 4):
        four = ", ".join(_numbered(number, 4))
        lines.append(f"st.relaxed.gpu.global.v4.b32 [a + {number // 4 * threads * 16}], {{{four}}};")
    return "\n".join([*lines, "}"])


@constexpr_function
def _text_of_adding(count: int, threads: int, parts: int, stride: int) -> str:
    """PTX: reads `count` words of every part until all bring the turn's number, and adds them up in order."""
    place, turn = f"${count}", f"${2 * count}"
    lines = [
        f"{{ .reg .b32 t, x, v<{parts * count}>; .reg .b64 a; .reg .pred again;",
        "mov.u32 t, %tid.x;", f"mad.wide.u32 a, t, 16, {place};", "ANEW:", "mov.b32 x, 0;",
    ]  # fmt: skip
    for part in range(parts):
        for number in range(0, count, 4):
            four = ", ".join(f"v{part * count + number + one}" for one in range(4))
            lines.append(
                f"ld.relaxed.gpu.global.v4.b32 {{{four}}}, [a + {part * stride + number // 4 * threads * 16}];"
            )
    for word in range(parts * count):
        lines.append(f"lop3.b32 x, v{word}, {turn}, x, 0xbe;")  # (word ^ turn) | x
    lines += ["and.b32 x, x, 255;", "setp.ne.b32 again, x, 0;", "@again bra ANEW;"]
    for word in range(parts * count):
        lines.append(f"and.b32 v{word}, v{word}, 0xffffff00;")
    for number in range(count):
        lines.append(f"mov.b32 ${number}, v{number};")
        for part in range(1, parts):
            lines.append(f"add.f32 ${number}, ${number}, v{part * count + number};")
    return "\n".join([*lines, "}"])


@constexpr_function
def _operands(outputs: str, inputs: str, count: int) -> str:
    """One of each a word."""
    return ",".join([outputs] * count + [kind for kind in inputs for _ in range(count)])


@jit
def leave(part, x, turn, THREADS: constexpr):  # type: ignore[no-untyped-def]
    """Writes this program's part x, a held tile, of a sum in turn number `turn`, 1 to 255."""
    COUNT: constexpr = x.shape[0] * x.shape[1] // THREADS
    words = x.to(lang.int32, bitcast=True)
    place = words.to(lang.int64) * 0 + part.to(lang.int64)
    lang.inline_asm_elementwise(
        _text_of_writing(COUNT, THREADS), _operands("=r", "rlr", COUNT), [words, place, turn + words * 0],
        dtype=lang.int32, is_pure=False, pack=COUNT,
    )  # fmt: skip


@jit
def added(parts, nothing, turn, P: constexpr, THREADS: constexpr):  # type: ignore[no-untyped-def]
    """The sum of P programs' parts of a tile, once all are there; `nothing` is a held tile of zeros."""
    COUNT: constexpr = nothing.shape[0] * nothing.shape[1] // THREADS
    STRIDE: constexpr = 4 * nothing.shape[0] * nothing.shape[1]
    AT_ONCE: constexpr = 4 if P > 4 else P
    total = lang.inline_asm_elementwise(
        _text_of_adding(COUNT, THREADS, AT_ONCE, STRIDE), _operands("=f", "lr", COUNT),
        [nothing.to(lang.int64) + parts.to(lang.int64), nothing.to(lang.int32) + turn],
        dtype=lang.float32, is_pure=False, pack=COUNT,
    )  # fmt: skip
    if P > 4:
        total += added(parts + STRIDE, nothing, turn, P - 4, THREADS)
    return total
