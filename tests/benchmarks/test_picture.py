from pathlib import Path

from PIL import Image

from benchmarks import picture
from tests.benchmarks.figures import BROKEN, MACHINE, SECTIONS


def test_the_picture_shows_met_and_missed_goals_in_their_colours(tmp_path: Path) -> None:
    picture.draw(MACHINE, SECTIONS, tmp_path / "figures.png")
    with Image.open(tmp_path / "figures.png") as drawn:
        colours = {colour for _, colour in drawn.convert("RGB").getcolors(1 << 24) or []}
    for shade in (picture.MET, picture.MISSED):
        assert tuple(bytes.fromhex(shade.removeprefix("#"))) in colours


def test_a_run_whose_subjects_all_broke_off_still_has_a_picture(tmp_path: Path) -> None:
    picture.draw(MACHINE, [BROKEN], tmp_path / "figures.png")
    assert (tmp_path / "figures.png").stat().st_size > 0
