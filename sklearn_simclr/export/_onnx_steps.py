"""Put the steps that follow an encoder in a Pipeline behind its graph in ONNX; skl2onnx writes them."""

import warnings
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.base import is_classifier, is_regressor
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline
from sklearn.svm import LinearSVC
from sklearn.utils.validation import check_is_fitted

from .._utils.warn import shortened, warn
from ..estimators.nested import ImageStep, image_steps

__all__ = ["OPSET", "Step", "answers", "later_steps", "put_behind", "steps_graph"]

# For older opsets, onnxruntime averages the last row and column of a pool with ceil_mode wrongly.
OPSET = 20

# Operators for machine learning, in a version that onnxruntime has known since its own version 1.11.
_ML = "ai.onnx.ml"
_ML_OPSET = 3

_PREFIX = "later_"


class Step(NamedTuple):
    """A fitted estimator that takes the output of the one before it.

    Parameters
    ----------
    path : str
        How to get at it, as Python writes it.
    estimator : estimator
        An estimator of scikit-learn.
    """

    path: str
    estimator: Any


def later_steps(found: ImageStep) -> list[Step]:
    """Return the steps between an encoder and the answer of the estimator that holds it.

    Parameters
    ----------
    found : ImageStep
        The encoder.

    Returns
    -------
    list of Step
        Pipelines within pipelines and the like are taken apart, steps that change nothing are left out.

    Raises
    ------
    NotFittedError
        If one of them is not fitted.
    ValueError
        If an estimator around the encoder does not answer as what it holds, such as a ColumnTransformer with
        further columns.

    Warns
    -----
    UserWarning
        If X goes through something else before the encoder.
    """
    before = [type(step).__name__ for step in found.before if hasattr(step, "get_params")]
    if before:
        warn(
            f"X goes through {', '.join(before)} before {found.path}, with which the ONNX graph begins. Give "
            f"the graph the output of {before[-1]}."
        )
    for path, later in found.after:
        if any(one.step is found.step for one in image_steps(later)):
            raise ValueError(
                f"{path}, a {type(later).__name__}, changes the answers of the estimators that it holds, "
                f"which cannot be written as an ONNX graph from images. Pass {found.path}, and apply the "
                "rest in scikit-learn to the output of the graph."
            )
    return [step for path, later in found.after for step in _taken_apart(path, later)]


def _taken_apart(path: str, step: Any) -> list[Step]:
    if step is None or isinstance(step, str):
        return []
    if isinstance(step, Pipeline):
        parts = [_taken_apart(f"{path}[{name!r}]", part) for name, part in step.steps]
        return [one for part in parts for one in part]
    if isinstance(step, FrozenEstimator):
        return _taken_apart(f"{path}.estimator", step.estimator)
    check_is_fitted(step)
    if hasattr(step, "best_estimator_"):
        return _taken_apart(f"{path}.best_estimator_", step.best_estimator_)
    if type(step).__module__.startswith("sklearn_simclr."):
        if hasattr(step, "estimator_"):
            return _taken_apart(f"{path}.estimator_", step.estimator_)
        if is_classifier(step) and hasattr(step, "coef_"):
            return [Step(path, _as_logistic_regression(step))]
    return [Step(path, step)]


def _as_logistic_regression(step: Any) -> LogisticRegression:
    """Return a logistic regression of ours as that of scikit-learn, which skl2onnx knows."""
    same = LogisticRegression()
    for name in ("classes_", "coef_", "intercept_", "n_features_in_"):
        setattr(same, name, getattr(step, name))
    return same


def answers(steps: list[Step], rows: NDArray[np.float32]) -> dict[str, NDArray]:
    """Return what steps answer, by the names that the outputs of a graph get.

    Parameters
    ----------
    steps : list of Step
        At least one.
    rows : float32 ndarray of shape (n, d)
        For the first of them.

    Returns
    -------
    dict of str to ndarray
        "labels", and "probabilities" or "scores" where there are any; "predictions" of a regressor;
        "representations" of a transformer.
    """
    with warnings.catch_warnings():
        # The warnings are about columns without names, and labels of a classifier that is scored.
        warnings.simplefilter("ignore")
        for step in steps[:-1]:
            rows = np.asarray(step.estimator.transform(rows))
        last = steps[-1].estimator
        if is_classifier(last):
            found = {"labels": last.predict(rows)}
            if hasattr(last, "predict_proba"):
                found["probabilities"] = last.predict_proba(rows)
            elif hasattr(last, "decision_function"):
                found["scores"] = last.decision_function(rows)
            return found
        if is_regressor(last):
            return {"predictions": last.predict(rows)}
        return {"representations": np.asarray(last.transform(rows))}


def steps_graph(steps: list[Step], rows: NDArray[np.float32]) -> Any:
    """Return steps as a graph.

    Parameters
    ----------
    steps : list of Step
        At least one.
    rows : float32 ndarray of shape (n, d)
        Some of what the first takes, to compare the graph with the steps.

    Returns
    -------
    onnx.ModelProto
        It takes float32 rows (n, d). Its outputs have the names and shapes of `answers`.

    Raises
    ------
    ValueError
        If a step cannot be written. The message names it.
    ImportError
        If skl2onnx is not installed.
    """
    import onnxruntime
    from onnx import TensorProto, compose, helper

    model = compose.add_prefix(_converted(steps, rows.shape[1]), _PREFIX)
    graph = model.graph
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    found, expected = session.run(None, {graph.input[0].name: rows}), answers(steps, rows)
    if len(found) != len(expected):
        raise ValueError(
            f"The ONNX graph of {steps[-1].path}, a {type(steps[-1].estimator).__name__}, has {len(found)} "
            f"outputs, but the estimator answers with {', '.join(expected)}. {_ADVICE}"
        )
    sources = [(output.name, output.type.tensor_type.elem_type) for output in graph.output]
    del graph.output[:]
    for (name, right), value, (source, kind) in zip(expected.items(), found, sources, strict=True):
        inputs, operator, options = [source], "Identity", {}
        if np.ndim(right) == 1 and np.ndim(value) == 2:
            # One score for two classes: skl2onnx has it in the first column, the last or the only one.
            column = int(np.abs(value - right[:, None]).max(axis=0).argmin())
            graph.initializer.append(helper.make_tensor(_PREFIX + "column", TensorProto.INT64, [], [column]))
            inputs, operator, options = [source, _PREFIX + "column"], "Gather", {"axis": 1}
        graph.node.append(helper.make_node(operator, inputs, [name], **options))
        shape = ["n", *np.shape(right)[1:]]
        graph.output.append(helper.make_tensor_value_info(name, kind, shape))
    return model


def put_behind(model: Any, later: Any) -> Any:
    """Return a graph with another one behind it.

    Parameters
    ----------
    model : onnx.ModelProto
        With one output.
    later : onnx.ModelProto
        As of `steps_graph`.

    Returns
    -------
    onnx.ModelProto
        With the outputs of the second.
    """
    from onnx import compose, helper

    versions = {"": OPSET, _ML: _ML_OPSET} | {one.domain: one.version for one in model.opset_import}
    opsets = [helper.make_operatorsetid(domain, version) for domain, version in versions.items()]
    newest = max(model.ir_version, later.ir_version)
    for part in (model, later):
        # skl2onnx notes the oldest versions with the same operators; graphs to be merged need equal ones.
        del part.opset_import[:]
        part.opset_import.extend(opsets)
        part.ir_version = newest
    link = model.graph.output[0].name, later.graph.input[0].name
    whole = compose.merge_models(model, later, [link])
    del whole.opset_import[:]
    whole.opset_import.extend(opsets)
    return whole


def _converted(steps: list[Step], n_features: int) -> Any:
    """Return steps as a graph of their own."""
    try:
        return _convert(steps, n_features)
    except ImportError:
        raise
    except Exception as error:
        cause, failed = error, steps[-1]
    for step in steps:
        try:
            _convert([step], step.estimator.n_features_in_)
        except Exception as error:
            cause, failed = error, step
            break
    reason = (str(cause).strip().splitlines() or [type(cause).__name__])[0]
    raise ValueError(
        f"{failed.path}, a {type(failed.estimator).__name__}, cannot be written as an ONNX graph: "
        f"{shortened(reason)} {_ADVICE}"
    ) from cause


def _convert(steps: list[Step], n_features: int) -> Any:
    skl2onnx = _import_skl2onnx()
    last = steps[-1].estimator
    options: dict[int, dict[str, bool]] = {}
    if isinstance(last, LinearSVC):
        options = {id(last): {"raw_scores": True}}
    elif is_classifier(last):
        options = {id(last): {"zipmap": False}}  # an array of probabilities, not dicts
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return skl2onnx.convert_sklearn(
            Pipeline([(f"step{k}", step.estimator) for k, step in enumerate(steps)]),
            initial_types=[("rows", skl2onnx.common.data_types.FloatTensorType([None, n_features]))],
            options=options or None,
            target_opset={"": OPSET, _ML: _ML_OPSET},
        )


def _import_skl2onnx() -> Any:
    try:
        import skl2onnx
    except ImportError as error:
        raise ImportError(
            "Writing the steps of a Pipeline after its encoder needs skl2onnx. Install it with: "
            "pip install 'sklearn-simclr[onnx]'; or pass the encoder alone."
        ) from error
    return skl2onnx


_ADVICE = (
    "Export the encoder alone, or the Pipeline up to that step, and apply the rest in scikit-learn to the "
    "output of the graph."
)
