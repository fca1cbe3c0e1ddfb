"""The data sets of every kind of question: multiple choice, taxonomies, ratings, rankings, spans, fused contents.

- those of `tests/e2e/courses`, which are small: half of each is annotated at most;
- drawn pictures: `several`, `match`, `larger`, `cabinet`; written sentences: `names`;
- handwritten digits by their number (`numbers`);
- Debian packages (`benchmarks/debian_packages.py`): `tags`, `archive`, `search`.
"""

import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from itertools import islice
from pathlib import Path
from types import MappingProxyType

from benchmarks import kind_sentences
from benchmarks.curve_courses import (
    IMAGE_MODELS,
    RAREST,
    SECTIONS,
    SIDE_PX,
    TEXT_MODELS,
    data_url,
    handwritten,
)
from benchmarks.debian_packages import MissingDataError, Package, all_packages
from lorabel.demo import captions
from lorabel.demo.pictures import FILLS, SIZES, Picture, random_pictures
from lorabel.labeling.regions import Region, choices, labels, number, pairwise, ranker, taxonomy
from tests.e2e import courses
from tests.e2e.courses import LabeledTask

CHOICE, MULTIPLE, TAXONOMY = "choice", "multiple choice", "taxonomy"
RATING, RANKING, SPANS, SEGMENTS = "rating", "ranking", "spans", "segments"
KINDS = (CHOICE, MULTIPLE, TAXONOMY, RATING, RANKING, SPANS, SEGMENTS)
# Tasks to annotate, and test tasks.
LEARNED, TESTED = 400, 400
# The same of recordings with segments, which have many windows each.
LEARNED_RECORDINGS, TESTED_RECORDINGS = 40, 30
ROUND = ("circle", "heart", "moon", "flower")
# Labels of `several`, which do not describe what they stand for.
PROPERTIES: Mapping[str, Callable[[Picture], bool]] = MappingProxyType(
    {
        "tag 1": lambda picture: picture.colour in ("red", "orange", "yellow", "pink"),
        "tag 2": lambda picture: picture.shape in ROUND,
        "tag 3": lambda picture: picture.size == "large",
        "tag 4": lambda picture: picture.fill == "striped",
    }
)
# Label of `tags` -> Debtag. A package has at least one of the last eight.
INTERFACES = MappingProxyType(
    {"command line": "interface::commandline", "graphical interface": "interface::graphical"}
)
TOPICS = MappingProxyType(
    {
        "text": "works-with::text",
        "sound": "works-with::audio",
        "images": "works-with::image",
        "mail": "works-with::mail",
        "conversion": "use::converting",
        "editing": "use::editing",
        "viewing": "use::viewing",
        "monitoring": "use::monitor",
    }
)
# The three levels of `archive`: an area, a section of the archive, and what the package contains.
AREAS = MappingProxyType(
    {
        "leisure": ("games", "sound", "video", "graphics"),
        "office": ("mail", "text", "editors", "fonts", "web"),
        "research": ("science", "math", "electronics"),
        "operation": ("net", "admin", "utils", "x11"),
        "programming": ("perl", "python", "java", "devel"),
    }
)
ROLES = MappingProxyType(
    {
        "role::program": "program",
        "role::documentation": "documentation",
        "role::app-data": "data",
        "role::data": "data",
        "role::plugin": "plugin",
        "role::shared-lib": "library",
        "role::devel-lib": "development files",
    }
)
# Rarer leaves of `archive` are left out.
FEWEST_OF_LEAF = 5
ITEMS_OF_SEARCH = 4


@dataclass(frozen=True)
class KindCourse:
    """A data set with one control tag to learn.

    Args:
        kind: one of KINDS.
        tag: the name of the control tag.
        models: takes an empty folder; returns the base models by family, as in the settings.
        tasks: to annotate.
        test: never annotated.
    """

    name: str
    kind: str
    label_config: str
    tag: str
    models: Callable[[Path], Mapping[str, str]]
    tasks: Sequence[LabeledTask]
    test: Sequence[LabeledTask]

    def order(self, seed: int) -> list[int]:
        """Indices of the tasks to annotate, in an order that depends on the seed."""
        return random.Random(seed).sample(range(len(self.tasks)), len(self.tasks))


def of_end_to_end(name: str, tag: str, kind: str, new_name: str) -> KindCourse:
    """A control tag of one of `tests/e2e/courses`: half of the tasks to annotate, half to test."""
    course = courses.load(name)
    tasks = random.Random(0).sample(list(course.tasks), len(course.tasks))
    half = round(len(tasks) / 2)
    return KindCourse(new_name, kind, course.label_config, tag, _models_of(course), tasks[:half], tasks[half:])


def _models_of(course: courses.Course) -> Callable[[Path], Mapping[str, str]]:
    """See `KindCourse.models`."""

    def models(folder: Path) -> Mapping[str, str]:
        variables = course.variables(folder).items()
        return {variable.removeprefix("MODEL_").lower(): source for variable, source in variables}

    return models


def of_recordings(name: str, tag: str, new_name: str) -> KindCourse:
    """The drawn recordings of one of `tests/e2e/courses`, more of them."""
    course, numbers = courses.load(name), range(LEARNED_RECORDINGS + TESTED_RECORDINGS)
    drawn = import_module(f"{courses.__name__}.{name}").labeled_tasks(numbers)
    tasks, test = drawn[:LEARNED_RECORDINGS], drawn[LEARNED_RECORDINGS:]
    return KindCourse(new_name, SEGMENTS, course.label_config, tag, _models_of(course), tasks, test)


def several() -> KindCourse:
    """Drawn shapes with any number of four labels."""
    tasks: list[LabeledTask] = []
    for picture in islice(random_pictures(31), LEARNED + TESTED):
        names = [name for name, has_property in PROPERTIES.items() if has_property(picture)]
        tasks.append(({"image": _url(picture)}, [choices("label", "image", names)]))
    return _of_pictures("several", MULTIPLE, _choices(PROPERTIES, "image", is_multiple=True), tasks)


def match() -> KindCourse:
    """A drawn shape with a caption, which names its colour and shape, or another colour or another shape."""
    dice = random.Random(4)
    tasks: list[LabeledTask] = []
    for index, picture in enumerate(islice(random_pictures(32), LEARNED + TESTED)):
        words = captions.describe(picture, ("colour", "shape"))
        is_match = index % 2 == 0
        if not is_match:
            name = dice.choice(("colour", "shape"))
            words[name] = dice.choice([word for word in captions.WORDS[name] if word != words[name]])
        data = {"image": _url(picture), "text": captions.write(words, dice)}
        tasks.append((data, [choices("label", "image", ["match" if is_match else "mismatch"])]))
    control = '<Text name="text" value="$text"/>' + _choices(("match", "mismatch"), "image,text")
    return _of_pictures("match", CHOICE, control, tasks)


def tags() -> KindCourse:
    """Descriptions of Debian programs with what people tagged them by."""
    names = {**INTERFACES, **TOPICS}
    tasks = []
    for package in _one_of_each_source():
        chosen = [name for name, tag in names.items() if tag in package.tags]
        if "role::program" in package.tags and not TOPICS.keys().isdisjoint(chosen):
            tasks.append(({"text": package.description}, [choices("label", "text", chosen)]))
    return _of_texts("tags", MULTIPLE, _choices(names, "text", is_multiple=True), tasks)


def cabinet() -> KindCourse:
    """Drawn shapes in a tree of codes: by fill, by form, by size. Each code is rarer than the one before."""
    paths = [(fill, form, size) for fill in FILLS for form in ("round", "straight") for size in SIZES]
    codes = dict(zip(paths, ((a, a + b, a + b + c) for a in "ABC" for b in "12" for c in "xy"), strict=True))
    shares = {path: RAREST ** (index / (len(paths) - 1)) for index, path in enumerate(paths)}
    dice = random.Random(6)

    def drawn() -> Iterator[LabeledTask]:
        for picture in random_pictures(33):
            path = (picture.fill, "round" if picture.shape in ROUND else "straight", picture.size)
            if dice.random() < shares[path]:
                yield {"image": _url(picture)}, [taxonomy("label", "image", [codes[path]])]

    tree = _tree([list(code) for code in codes.values()])
    tasks = list(islice(drawn(), LEARNED + TESTED))
    return _of_pictures("cabinet", TAXONOMY, _taxonomy(tree, "image"), tasks)


def archive() -> KindCourse:
    """Descriptions of Debian packages in a tree: area, section, and what is in the package."""
    area_of = {section: area for area, sections in AREAS.items() for section in sections}
    described = []
    for package in _one_of_each_source():
        roles = {ROLES[tag] for tag in package.tags & ROLES.keys()}
        if package.section in area_of and len(roles) == 1:
            described.append((package.description, (area_of[package.section], package.section, *roles)))
    counts = Counter(path for _, path in described[: LEARNED + TESTED])
    kept = [(text, list(path)) for text, path in described if counts[path] >= FEWEST_OF_LEAF]
    tasks = [({"text": text}, [taxonomy("label", "text", [path])]) for text, path in kept[: LEARNED + TESTED]]
    tree = _tree(sorted(list(path) for path, count in counts.items() if count >= FEWEST_OF_LEAF))
    return _of_texts("archive", TAXONOMY, _taxonomy(tree, "text"), tasks)


def numbers() -> KindCourse:
    """Handwritten digits, rated by the number that they show."""
    tasks: list[LabeledTask] = [
        ({"image": url}, [number("label", "image", digit)])
        for url, digit in islice(handwritten(), LEARNED + TESTED)
    ]
    return _of_pictures("numbers", RATING, '<Number name="label" toName="image" min="0" max="9"/>', tasks)


def larger() -> KindCourse:
    """Pairs of drawn shapes: the larger one is preferred, and of equally large ones the striped one."""
    pictures = random_pictures(34)
    tasks: list[LabeledTask] = []
    while len(tasks) < LEARNED + TESTED:
        pair = (next(pictures), next(pictures))
        first, second = ((picture.size == "large", picture.fill == "striped") for picture in pair)
        if first != second:
            data = {"image": _url(pair[0]), "other": _url(pair[1])}
            tasks.append((data, [pairwise("label", "image", "left" if first > second else "right")]))
    control = '<Image name="other" value="$other"/><Pairwise name="label" toName="image,other"/>'
    return _of_pictures("larger", RANKING, control, tasks)


def search() -> KindCourse:
    """A section of Debian's archive with four descriptions, of which one package is in the section."""
    by_section: dict[str, list[str]] = {section: [] for section in SECTIONS}
    for package in _one_of_each_source():
        if package.section in by_section:
            by_section[package.section].append(package.description)
    # No description is both in a task to annotate and in a test task.
    learned = [_search({name: texts[::2] for name, texts in by_section.items()}, seed) for seed in range(LEARNED)]
    tested = [_search({name: texts[1::2] for name, texts in by_section.items()}, seed) for seed in range(TESTED)]
    config = (
        '<View><Text name="prompt" value="$prompt"/><List name="items" value="$items"/>'
        '<Ranker name="label" toName="items"/></View>'
    )
    return KindCourse("search", RANKING, config, "label", lambda _: TEXT_MODELS, learned, tested)


def names() -> KindCourse:
    """Sentences with people, cities and companies. Test sentences have other names and other templates."""
    learned, tested = (
        [({"text": text}, _span_regions(text, spans)) for text, spans in part]
        for part in (kind_sentences.to_learn(LEARNED), kind_sentences.to_test(TESTED))
    )
    values = "".join(f'<Label value="{kind}"/>' for kind in kind_sentences.KINDS)
    config = f'<View><Labels name="label" toName="text">{values}</Labels><Text name="text" value="$text"/></View>'
    models = {"token_classifier": TEXT_MODELS["text_encoder"]}
    return KindCourse("names", SPANS, config, "label", lambda _: models, learned, tested)


KIND_COURSES: Mapping[str, Callable[[], KindCourse]] = MappingProxyType(
    {
        "several": several,
        "tags": tags,
        "cabinet": cabinet,
        "archive": archive,
        "numbers": numbers,
        "larger": larger,
        "search": search,
        "names": names,
        "match": match,
        "three_digits": lambda: of_end_to_end("digits", "label", CHOICE, "three_digits"),
        "digit_bins": lambda: of_end_to_end("digits", "bin", TAXONOMY, "digit_bins"),
        "text_taxonomy": lambda: of_end_to_end("text_taxonomy", "code", TAXONOMY, "text_taxonomy"),
        "rating": lambda: of_end_to_end("rating", "stars", RATING, "rating"),
        "ranking": lambda: of_end_to_end("ranking", "larger", RANKING, "ranking"),
        "entities": lambda: of_end_to_end("entities", "entity", SPANS, "entities"),
        "image_text": lambda: of_end_to_end("image_text", "label", CHOICE, "image_text"),
        "text_choices": lambda: of_end_to_end("text_choices", "bin", CHOICE, "text_choices"),
        "sounds": lambda: of_end_to_end("sounds", "label", CHOICE, "sounds"),
        "videos": lambda: of_end_to_end("videos", "label", CHOICE, "videos"),
        "sound_segments": lambda: of_recordings("sound_segments", "part", "sound_segments"),
        "timelines": lambda: of_recordings("timelines", "seen", "timelines"),
    }
)


def _search(texts_of: Mapping[str, Sequence[str]], seed: int) -> LabeledTask:
    dice = random.Random(seed)
    sections = dice.sample(SECTIONS, ITEMS_OF_SEARCH)
    order = dice.sample(sections, ITEMS_OF_SEARCH)
    items = [{"id": section, "body": dice.choice(texts_of[section])} for section in order]
    return {"prompt": sections[0], "items": items}, [ranker("label", "items", {"label": [sections[0]]})]


def _of_pictures(name: str, kind: str, control: str, tasks: Sequence[LabeledTask]) -> KindCourse:
    config = f'<View><Image name="image" value="$image"/>{control}</View>'
    return KindCourse(name, kind, config, "label", lambda _: IMAGE_MODELS, tasks[:LEARNED], tasks[LEARNED:])


def _of_texts(name: str, kind: str, control: str, tasks: Sequence[LabeledTask]) -> KindCourse:
    config = f'<View><Text name="text" value="$text"/>{control}</View>'
    learned, tested = tasks[:LEARNED], tasks[LEARNED : LEARNED + TESTED]
    return KindCourse(name, kind, config, "label", lambda _: TEXT_MODELS, learned, tested)


def _choices(names: Iterable[str], to: str, is_multiple: bool = False) -> str:
    values = "".join(f'<Choice value="{name}"/>' for name in names)
    kind = ' choice="multiple"' if is_multiple else ""
    return f'<Choices name="label" toName="{to}"{kind}>{values}</Choices>'


def _taxonomy(tree: str, to: str) -> str:
    return f'<Taxonomy name="label" toName="{to}" leafsOnly="true">{tree}</Taxonomy>'


def _tree(paths: Sequence[Sequence[str]]) -> str:
    """The choices of a taxonomy with these paths."""
    below: dict[str, list[Sequence[str]]] = {}
    for first, *rest in paths:
        below.setdefault(first, []).append(rest)
    return "".join(
        f'<Choice value="{name}">{_tree([path for path in children if path])}</Choice>'
        for name, children in below.items()
    )


def _span_regions(text: str, spans: Sequence[tuple[int, int, str]]) -> list[Region]:
    return [
        labels("label", "text", "labels", {"start": start, "end": end, "text": text[start:end]}, [kind])
        for start, end, kind in spans
    ]


def _one_of_each_source() -> list[Package]:
    """One binary package of each source package, in random order."""
    packages = list(all_packages())
    if not any(package.tags for package in packages):
        raise MissingDataError("the set needs package lists with Debtags: those of a Debian release")
    mixed = random.Random(0).sample(packages, len(packages))
    by_description = {package.description: package for package in mixed}
    return list({package.source: package for package in by_description.values()}.values())


def _url(picture: Picture) -> str:
    return data_url(picture.draw(SIDE_PX))
