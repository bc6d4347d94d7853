"""Draw the pictures of docs/development/architecture.md: the rooms, and the path of X through fit.

``python docs/draw_architecture.py`` writes them into the page; with ``--check`` it writes nothing and fails
where the page shows something else. Nothing is imported from the package: its source is parsed.
"""

import ast
import re
import sys
import textwrap
from functools import cache
from itertools import pairwise, zip_longest
from pathlib import Path

PAGE = Path(__file__).parent / "development" / "architecture.md"
PACKAGE = Path(__file__).parents[1] / "sklearn_simclr"

# Fill and stroke of each room, from the top of the house to the bottom; the order is that of the imports.
ROOMS = {
    "inspection": "#fde8ef,#c2185b",
    "theory": "#f3e5f5,#8e24aa",
    "evaluation": "#ede7f6,#5e35b1",
    "export": "#e8eaf6,#3949ab",
    "estimators": "#e3f2fd,#1e88e5",
    "training": "#e0f2f1,#00897b",
    "encoders": "#f1f8e9,#689f38",
    "views": "#fffde7,#c9a400",
    "losses": "#fff3e0,#fb8c00",
    "images": "#fbe9e7,#d84315",
    "_utils": "#eceff1,#546e7a",
}

# Lines are broken here, not by mermaid.
WIDE = '%%{init: {"flowchart": {"wrappingWidth": 600, "nodeSpacing": 25, "rankSpacing": 45}}}%%'

# Where a base class is named, these are meant: what is fitted, and what it learns.
CONCRETE = (
    "estimators/simclr_transformer.py:SimCLRTransformer",
    "training/contrastive.py:ContrastiveObjective",
)

# The functions on the way down, each called by the one before it.
SPINE = [
    "estimators/simclr_transformer.py:SimCLRTransformer.fit",
    "training/trainer.py:train",
    "training/cache.py:train_once",
    "training/trainer.py:train.run",
    "training/loop.py:Loop.run",
    "training/loop.py:Loop.fit_loop",
    "training/loop.py:Loop._run_epoch",
    "training/loop.py:Loop._step",
    "training/contrastive.py:ContrastiveObjective.step",
]

# Calls in whose place those that they make are drawn.
OPENED = {
    "estimators/base.py:BaseImageEstimator._read_rows",
    "estimators/base.py:BaseImageEstimator._read_arrays",
    "estimators/trained_base.py:TrainedImageEstimator._views",
    "estimators/trained_base.py:TrainedImageEstimator._build_encoder",
    "estimators/simclr_transformer.py:SimCLRTransformer._build_modules",
    "estimators/simclr_transformer.py:SimCLRTransformer._make_objective",
    "estimators/simclr_transformer.py:SimCLRTransformer._make_head",
    "training/loop.py:Loop._record",
    "training/loop.py:Loop._gradient",
    "training/loop.py:Loop._update",
    "training/batch.py:Batch.draw",
    "training/contrastive.py:ContrastiveObjective.compare",
    "training/contrastive.py:ContrastiveObjective.make_views",
    "training/contrastive.py:ContrastiveObjective.project",
    "training/contrastive.py:ContrastiveObjective.project_all",
}

# Calls under which those that they make are drawn.
EXPLAINED = {
    "estimators/base.py:BaseImageEstimator._read_images",
    "estimators/trained_base.py:TrainedImageEstimator._new_objective",
}

# Calls that are not drawn: containers of values, checks, seeds, what the clock is asked, callbacks of skorch.
HIDDEN = """
    Batch Epoch History Pace Position Step Loop _check_same_architecture _default_augmentation
    _encoder_setting _given _known_columns _lacks_head _overrides_step _print_prediction _reading
    _set_global_states _take _take_format _takes_channels_last _target building together draw_seed due
    ended_by_callback fraction isolated_generators lay_out named_loss over precision published_modules
    refusing setting_up state_of _time time_left traits
"""

# What the source does not say in place: (caller, call as written) -> what is called, and the function
# that has put it there, in which its name must be found.
HANDED = {
    ("train_once", "key"): ("training/trainer.py:train.parts", "training/trainer.py:train"),
    ("train_once", "run"): ("training/trainer.py:train.run", "training/trainer.py:train"),
    ("train.run", "parts"): ("training/trainer.py:train.parts", "training/trainer.py:train"),
    ("Loop.run", "self.initialize"): (
        "training/optimizers.py:make_optimizer",
        "training/loop.py:Loop.initialize_optimizer",
    ),
    ("Loop._run_epoch", "self.feed_.batches"): (
        "training/feed.py:_Resident.batches",
        "training/feed.py:make_feed",
    ),
    ("Loop._run_epoch", "self.plan.schedule"): (
        "training/schedule.py:warmup_cosine",
        "estimators/trained_base.py:TrainedImageEstimator._plan",
    ),
    ("Loop._update", "self.scaler.step"): (
        "training/muon.py:Muon.step",
        "training/optimizers.py:make_optimizer",
    ),
    ("Loop._gradient", "loss.backward"): ("torch:loss.backward", "training/loop.py:Loop._gradient"),
    ("ContrastiveObjective.make_views", "views.apply"): (
        "views/augmentation.py:Augmentation.apply",
        "estimators/views.py:resolve_views",
    ),
    ("ContrastiveObjective.compare", "self.loss"): (
        "losses/ntxent.py:nt_xent",
        "estimators/simclr_transformer.py:SimCLRTransformer._make_loss",
    ),
    ("ContrastiveObjective.project", "self.modules['encoder']"): (
        "encoders/compact.py:CompactNet.forward",
        "encoders/make.py:_make_named",
    ),
    ("ContrastiveObjective.project", "self.modules['projector']"): (
        "encoders/heads.py:ProjectionHead.forward",
        "estimators/simclr_transformer.py:SimCLRTransformer._make_head",
    ),
}


@cache
def tree(file):
    """Return the parsed source of a file of the package."""
    return ast.parse((PACKAGE / file).read_text(encoding="utf-8"))


@cache
def find(target):
    """Return the definition that ``file:Class.method`` or ``file:function.nested`` names, or None."""
    file, _, names = target.partition(":")
    if not (PACKAGE / file).is_file():
        return None
    node = tree(file)
    for name in names.split("."):
        inside = [child for child in getattr(node, "body", ()) if getattr(child, "name", None) == name]
        if not inside:
            return None
        node = inside[-1]
    return node


@cache
def imported(file):
    """Return what a file imports from the package: local name to ``file:name``, or to a file."""
    known = {}
    for node in ast.walk(tree(file)):
        if isinstance(node, ast.ImportFrom) and node.level:
            folder = Path(file).parents[node.level - 1]
            for alias in node.names:
                module = folder / Path(*(node.module or "").split("."))
                target = f"{module.as_posix()}.py:{alias.name}"
                if find(target) is None:
                    target = f"{(module / alias.name).as_posix()}.py"
                if (PACKAGE / target.partition(":")[0]).is_file():
                    known[alias.asname or alias.name] = target
    return known


def lookup(file, name):
    """Return what a name at the top of a file stands for, if it is of the package."""
    return f"{file}:{name}" if find(f"{file}:{name}") else imported(file).get(name)


@cache
def lineage(cls):
    """Return a class and its bases of the package, in the order in which methods are looked for."""
    file, found = cls.partition(":")[0], [cls]
    for base in find(cls).bases:
        target = lookup(file, base.id) if isinstance(base, ast.Name) else None
        found += lineage(target) if target else []
    return found


def concrete(cls):
    """Return the class that stands for a base class in this fit."""
    return next((other for other in CONCRETE if cls in lineage(other)), cls)


def method(cls, name):
    """Return the definition of a method in a class or its bases, or None."""
    if not isinstance(cls and find(cls), ast.ClassDef):
        return None
    return next((f"{base}.{name}" for base in lineage(concrete(cls)) if find(f"{base}.{name}")), None)


def annotated(file, note):
    """Return the class of the package that an annotation such as ``Checkpoint | None`` names."""
    names = [n.id for n in ast.walk(note) if isinstance(n, ast.Name)] if note else []
    return next(filter(None, (lookup(file, name) for name in names)), None)


def parameters(function):
    """Return the annotations of the parameters of a function."""
    arguments = find(function).args
    return {a.arg: a.annotation for a in (*arguments.args, *arguments.kwonlyargs)}


def attribute(cls, name):
    """Return the class of the parameter that ``__init__`` of a class or of a base keeps under a name."""
    for base in lineage(concrete(cls)) if cls else ():
        init = f"{base}.__init__"
        for node in ast.walk(find(init)) if find(init) else ():
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == f"self.{name}":
                return annotated(base.partition(":")[0], parameters(init).get(ast.unparse(node.value)))
    return None


def class_of(caller, value):
    """Return the class of the package that an expression in a function is of, as far as annotations say."""
    file, _, names = caller.partition(":")
    if isinstance(value, ast.Call):
        return resolve(caller, value.func)
    if isinstance(value, ast.Attribute):
        return attribute(class_of(caller, value.value), value.attr)
    if not isinstance(value, ast.Name):
        return None
    if value.id == "self":
        return caller.rpartition(".")[0]
    while names:  # outwards, from a nested function
        known = f"{file}:{names}"
        if isinstance(find(known), ast.FunctionDef) and value.id in parameters(known):
            return annotated(file, parameters(known)[value.id])
        names = names.rpartition(".")[0]
    return None


def resolve(caller, function):
    """Return the definition in the package that is called, or None."""
    file, _, name = caller.partition(":")
    if (name, ast.unparse(function)) in HANDED:
        return HANDED[name, ast.unparse(function)][0]
    if isinstance(function, ast.Name):
        nested = f"{caller}.{function.id}"
        return nested if find(nested) else lookup(file, function.id)
    if not isinstance(function, ast.Attribute):
        return None
    module = imported(file).get(ast.unparse(function.value), "")
    if module.endswith(".py"):
        return f"{module}:{function.attr}"
    return method(class_of(caller, function.value), function.attr)


@cache
def called(caller):
    """Return what a function calls: as written, what is called or None, and whether that is in a loop."""
    found = []

    def visit(node, loop):
        if isinstance(node, ast.FunctionDef | ast.Lambda):
            return  # called later, by somebody else
        for child in ast.iter_child_nodes(node):
            visit(child, loop or isinstance(node, ast.For | ast.While))
        if isinstance(node, ast.Call):
            found.append((ast.unparse(node.func), resolve(caller, node.func), loop))

    for statement in find(caller).body:
        visit(statement, False)
    return found


@cache
def calls(caller):
    """Return what is drawn of the calls of a function, each once, in the order in which they are made."""
    targets = []
    for _, target, _ in called(caller):
        if target in OPENED:
            targets += calls(target)
        elif target and last_name(target) not in HIDDEN.split():
            targets.append(target)
    # What is called early and again, as train_once calls run where nothing is kept, counts the last time.
    again = [t for k, t in enumerate(targets) if t not in SPINE or t not in targets[k + 1 :]]
    return list(dict.fromkeys(again))


def check_lists():
    """Raise unless the source has all that is listed above."""
    visited = [*SPINE, *OPENED, *EXPLAINED]
    givers = [giver for _, giver in HANDED.values()]
    wrong = [f"{target} is not there" for target in (*visited, *givers, *CONCRETE) if not find(target)]
    if not wrong:
        known = {(f.partition(":")[2], written) for f in visited for written, _, _ in called(f)}
        reached = {target for f in visited for _, target, _ in called(f) if target}
        wrong += [f"{caller} does not call {written}" for caller, written in HANDED.keys() - known]
        for target, giver in HANDED.values():
            names = "|".join(target.partition(":")[2].removesuffix(".forward").split("."))
            there = target.startswith("torch:") or find(target)
            if not (there and re.search(rf"\b({names})\b", ast.unparse(find(giver)))):
                wrong.append(f"{giver} does not name {target}")
        for caller, following in pairwise(SPINE):
            if following not in calls(caller):
                wrong.append(f"{caller} does not call {following}")
        wrong += [f"{target} is not called" for target in (*OPENED, *EXPLAINED) if target not in reached]
        made = find(f"{CONCRETE[0]}._make_objective").returns.id
        if lookup(CONCRETE[0].partition(":")[0], made) != CONCRETE[1]:
            wrong.append(f"{CONCRETE[0]} makes a {made}, not a {CONCRETE[1]}")
    if wrong:
        raise SystemExit(f"The lists of docs/{Path(__file__).name} are out of date.\n" + "\n".join(wrong))


def draw_rooms():
    """Return the rooms as boxes, with an arrow for each import between them that no longer way implies."""
    files, imports, below, arrows = {}, {}, {}, []
    for room in reversed(ROOMS):
        paths = [path.relative_to(PACKAGE) for path in (PACKAGE / room).rglob("*.py")]
        files[room] = [path.as_posix() for path in paths if path.name != "__init__.py"]
        found = {room_of(target) for file in files[room] for target in imported(file).values()}
        imports[room] = found & ROOMS.keys() - {room}
        below[room] = imports[room].union(*(below[other] for other in imports[room]))
    for room in ROOMS:
        direct = imports[room].difference(*(below[other] for other in imports[room]))
        arrows += [(room, other) for other in ROOMS if other in direct]
    # What few rooms import comes first: mermaid puts it on the left, where it is in the way of no arrow.
    fewest = sorted(ROOMS, key=lambda room: sum(room == other for _, other in arrows))
    lines = [WIDE, "flowchart TB"]
    for room in fewest:
        about = ast.get_docstring(tree(f"{room}/__init__.py")).splitlines()[0].rstrip(".")
        about = [f"<b>{room}/</b>", *textwrap.wrap(about, 33), f"<i>{len(files[room])} modules</i>"]
        text = "<br/>".join(about)
        lines.append(f'    {room}["{text}"]:::{room}')
    lines += [f"    {room} --> {other}" for room, other in arrows]
    return "\n".join([*lines, *styles(ROOMS)])


def draw_path():
    """Return the functions that X goes through, and what each calls before the next one and after it."""
    lines = [WIDE, "flowchart TB", '    X(["X"]) ==> f0']
    for k, (caller, following) in enumerate(zip_longest(SPINE, SPINE[1:])):
        steps = [target for target in calls(caller) if target not in SPINE or target == following]
        numbered = list(enumerate(steps, 1))
        at = steps.index(following) if following else len(steps)
        lines.append(f'    f{k}["{title(caller)}"]:::{room_of(caller)}')
        lines += side(f"f{k}", f"down{k}", numbered[:at])
        if following:
            again = any(loop for _, target, loop in called(caller) if target == following)
            lines.append(f"    f{k} ==>|{at + 1}{', again and again' if again else ''}| f{k + 1}")
            lines += side(f"f{k}", f"back{k}", numbered[at + 1 :])
    lines.append("    classDef side fill:#fff,stroke:#999,color:#111")
    lines.append("    classDef unseen fill:none,stroke:none")
    return "\n".join([*lines, *styles({room_of(target) for target in SPINE})])


def styles(rooms):
    """Return the lines that give rooms their colours."""
    colours = {room: ROOMS[room].split(",") for room in ROOMS if room in rooms}
    return [f"    classDef {r} fill:{fill},stroke:{line},color:#111" for r, (fill, line) in colours.items()]


def side(caller, name, numbered):
    """Return the lines of a box that lists calls; an empty one is not seen, but keeps the path straight."""
    if not numbered:
        return [f'    {name}[" "]:::unseen', f"    {caller} ~~~ {name}"]
    return [f'    {name}["{listed(numbered)}"]:::side', f"    {caller} --> {name}"]


def listed(numbered):
    """Return calls as lines with their numbers and files, on the left of their box."""
    lines = []
    for number, target in numbered:
        lines.append(f"{number}. {named(target)}")
        if target in EXPLAINED:
            lines += [f"&nbsp; &nbsp; &nbsp;{named(inner)}" for inner in calls(target)]
    return f"<div style='text-align:left'>{'<br/>'.join(lines)}</div>"


def named(target):
    """Return name and file of a definition: the name of the class where the method's says nothing."""
    file, _, names = target.partition(":")
    return f"<b>{names.removesuffix('.forward').rpartition('.')[2]}</b> &nbsp;{file}"


def title(target):
    """Return name, file and result of a function."""
    file, _, names = target.partition(":")
    result = getattr(find(target).returns, "id", None)
    lines = [f"<b>{names}</b>", file]
    return "<br/>".join(lines + [f"<i>returns {result}</i>"] * bool(result and lookup(file, result)))


def room_of(target):
    """Return the room of a file or definition."""
    return target.partition("/")[0]


def last_name(target):
    """Return the last name of a definition."""
    return re.split("[:.]", target)[-1]


def main(arguments):
    """Write the pictures into the page, or with ``--check`` raise if the page shows others."""
    check_lists()
    before = page = PAGE.read_text(encoding="utf-8")
    for name, draw in ("rooms", draw_rooms), ("path", draw_path):
        block = re.compile(rf"(<!-- {name}:[^>]*-->\n```mermaid\n).*?(```\n)", re.DOTALL)
        page, n = block.subn(lambda match, draw=draw: f"{match[1]}{draw()}\n{match[2]}", page)
        if n != 1:
            raise SystemExit(f"{PAGE.name} has {n} blocks <!-- {name}: ... --> with a picture, not one.")
    if arguments == ["--check"]:
        if page != before:
            raise SystemExit(
                f"{PAGE.name} shows what is no longer so. Run: python docs/{Path(__file__).name}"
            )
    elif page != before:
        PAGE.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
