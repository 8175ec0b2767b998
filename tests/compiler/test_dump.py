"""A frame after each pass, as text."""

from pathlib import Path

from moevit.compiler import compile_network
from moevit.compiler.dump import to_folder
from moevit.hw.config import preset
from moevit.quant.random_network import random_network


def test_every_pass_of_every_frame(tmp_path: Path) -> None:
    network = random_network(3)
    folder = tmp_path / "passes"
    dumped = compile_network(network, preset("micro"), all_tasks=True, dump=to_folder(folder))
    passes = ("1-build", "2-place", "3-order", "4-credits", "5-emit", "6-link")
    names = {f"{frame}.{name}.txt" for frame in ("task0", "task1", "all") for name in passes}
    assert {path.name for path in folder.iterdir()} == names
    text = {name: (folder / f"task0.{name}.txt").read_text() for name in passes}
    build, order = (sorted(line.split(None, 1)[1] for line in text[name].splitlines()) for name in (
        "1-build", "3-order",
    ))  # fmt: skip
    assert build == order, "the order changes, the operations do not"
    assert "GEMM RESIDUAL  residual <- attention" in text["1-build"]
    assert "tokens" not in text["1-build"].split(";")[0], "no addresses, no regions"
    assert "X       0..55" in text["2-place"]
    assert "take 1 a tile norm->compute" in text["4-credits"]
    assert "block 0: " in text["5-emit"]
    assert "GEMM      RESIDUAL X[0+8] <- A[0+4] 7 rows" in text["6-link"]
    plain = compile_network(network, preset("micro"), all_tasks=True)
    assert plain.memory.tobytes() == dumped.memory.tobytes()
