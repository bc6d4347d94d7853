"""Configuration of the documentation. A build needs no network and gives no warnings."""

import inspect
import os
import re
import sys
import tempfile
import zlib
from collections import defaultdict
from pathlib import Path

import sklearn_simclr

project = "sklearn-simclr"
REPOSITORY = "https://github.com/sklearn-simclr/sklearn-simclr"
author = "the sklearn-simclr developers"
copyright = f"2026, {author}"
release = version = sklearn_simclr.__version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.extlinks",
    "sphinx.ext.linkcode",
    "sphinx.ext.mathjax",
    "matplotlib.sphinxext.plot_directive",
    "numpydoc",
    "myst_parser",
    "sphinx_design",
    "sphinx_gallery.gen_gallery",
    "sphinxcontrib.mermaid",
]
# The blocks ```mermaid of Markdown, which GitHub draws as well; here the reader's browser draws them.
myst_fence_as_directive = ["mermaid"]
mermaid_height = "auto"
root_doc = "index"
exclude_patterns = ["_build", "_templates"]
templates_path = ["_templates"]

# A progress bar that is written to a page is a heap of its stages.
os.environ["TQDM_DISABLE"] = "1"

# The roles that docstrings use for papers.
extlinks = {
    "arxiv": ("https://arxiv.org/abs/%s", "arXiv:%s"),
    "doi": ("https://doi.org/%s", "doi:%s"),
}

# Links into the manuals of other projects. Their inventories would have to be fetched; for the few names that
# are linked to, the addresses follow from the names.
OTHERS = {
    "sklearn": (
        "https://scikit-learn.org/stable/",
        "modules/generated/{name}.html",
        "datasets.get_data_home datasets.load_digits datasets.load_files decomposition.PCA "
        "exceptions.ConvergenceWarning frozen.FrozenEstimator linear_model.LogisticRegression manifold.TSNE "
        "metrics.average_precision_score model_selection.GridSearchCV model_selection.PredefinedSplit "
        "model_selection.StratifiedKFold model_selection.cross_validate model_selection.learning_curve "
        "neighbors.KNeighborsClassifier neighbors.NearestNeighbors pipeline.FeatureUnion pipeline.Pipeline "
        "semi_supervised.SelfTrainingClassifier",
    ),
    "scipy": (
        "https://docs.scipy.org/doc/scipy/",
        "reference/generated/{name}.html",
        "stats.permutation_test",
    ),
    "pandas": ("https://pandas.pydata.org/docs/", "reference/api/{name}.html", "DataFrame"),
    "torch": ("https://docs.pytorch.org/docs/stable/", "generated/{name}.html", "nn.Module compile"),
}
extensions.append("sphinx.ext.intersphinx")
intersphinx_mapping = {}
for package, (address, page, names) in OTHERS.items():
    entries = [
        f"{package}.{name} py:{'class' if name.rpartition('.')[2][0].isupper() else 'function'} 1 "
        f"{page.format(name=f'{package}.{name}')}#{package}.{name} -\n"
        for name in names.split()
    ]
    header = f"# Sphinx inventory version 2\n# Project: {package}\n# Version:\n# zlib\n"
    inventory = Path(tempfile.mkdtemp()) / "objects.inv"
    inventory.write_bytes(header.encode() + zlib.compress("".join(entries).encode()))
    intersphinx_mapping[package] = (address, str(inventory))

# On the page of a class the list at the right says "fit()".
toc_object_entries_show_parents = "hide"

plot_formats = ["png"]
plot_html_show_formats = False
plot_html_show_source_link = False

autosummary_generate = True
# What can be imported from the package itself has pages of its own. The page of its room links to them: of a
# second description Sphinx would warn.
autosummary_context = {"top": defaultdict(list)}
for public in sklearn_simclr.__all__:
    if module := getattr(getattr(sklearn_simclr, public), "__module__", None):
        autosummary_context["top"][".".join(module.split(".")[:2])].append(public)
autodoc_member_order = "bysource"
# The docstrings name the types in words; ArrayLike written out fills a paragraph.
autodoc_typehints = "none"
# The templates list the members; numpydoc would list them again, those of scikit-learn included.
numpydoc_show_class_members = False

sphinx_gallery_conf = {
    "examples_dirs": "../examples",
    "gallery_dirs": "auto_examples",
    # Scripts with a command line have no page of their own: the page of the gallery lists them. The lesson on
    # clothing needs a download: its page shows stored results, and a build runs the lessons plot_* only.
    "ignore_pattern": r"(^|/)(?!plot_|photographs_of_clothing)[^/]*\.py$",
    "remove_config_comments": True,
    # A lesson shows what it prints and draws, not what its last line returns.
    "capture_repr": (),
    "download_all_examples": False,
    # "Examples using" on the pages of the API.
    "doc_module": ("sklearn_simclr",),
    "backreferences_dir": "reference/generated/backreferences",
    "show_memory": False,
}

html_theme = "pydata_sphinx_theme"
html_title = project
html_show_sourcelink = False
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_theme_options = {
    "show_toc_level": 2,
    "navigation_with_keys": False,
    "header_links_before_dropdown": 5,
    "icon_links": [{"name": "GitHub", "url": REPOSITORY, "icon": "fa-brands fa-github"}],
}
html_sidebars = {"index": []}


def linkcode_resolve(domain, info):
    """Return the address of the lines that define an object, or None."""
    try:
        found = sys.modules[info["module"]]
        for name in info["fullname"].split("."):
            found = getattr(found, name)
        found = inspect.unwrap(getattr(found, "fget", found))
        lines, first = inspect.getsourcelines(found)
        file = Path(inspect.getsourcefile(found)).relative_to(Path(sklearn_simclr.__file__).parent)
    except (AttributeError, KeyError, OSError, TypeError, ValueError):  # no object of this package in a file
        return None
    return f"{REPOSITORY}/blob/main/sklearn_simclr/{file.as_posix()}#L{first}-L{first + len(lines) - 1}"


def skip_what_others_document(app, what, name, obj, skip, options):
    """Leave out members that come from scikit-learn, torch or Python: their text links into other manuals."""
    owner = (
        getattr(obj, "fget", None) or getattr(obj, "fn", None) or getattr(obj, "__objclass__", None) or obj
    )
    module = getattr(owner, "__module__", None) or "sklearn_simclr"
    if what == "module" and name in sklearn_simclr.__all__:
        return True
    if what == "class" and not module.startswith("sklearn_simclr"):
        return True
    if name.startswith("set_") and name.endswith("_request"):
        return True
    return None


def escape_shapes(app, what, name, obj, options, lines):
    """Keep ``shape (n_features_in_,)`` from being read as a hyperlink; a closing underscore makes one."""
    lines[:] = [re.sub(r"shape \((\w+)_,", r"shape (\1\\_,", line) for line in lines]


def setup(app):
    # After numpydoc, which turns the sections into reStructuredText.
    app.connect("autodoc-process-docstring", escape_shapes, priority=900)
    app.connect("autodoc-skip-member", skip_what_others_document)
