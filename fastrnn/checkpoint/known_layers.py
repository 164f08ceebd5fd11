"""Layers that are not recurrent, told by names and shapes, or by their class where a module was saved whole."""

from __future__ import annotations

import re
from typing import Any

from .groups import Group
from .inert import Opaque
from .layer_info import LayerInfo, common_dtype

Shapes = dict[str, tuple[int, ...]]

#: Kind without its number of dimensions -> its arguments, in the order in which torch prints them.
_ARGUMENTS = {
    "Linear": "in_features out_features bias",
    "Embedding": "num_embeddings embedding_dim padding_idx max_norm norm_type scale_grad_by_freq sparse",
    "Conv": "in_channels out_channels kernel_size stride padding dilation groups bias padding_mode",
    "ConvTranspose": "in_channels out_channels kernel_size stride padding dilation output_padding groups bias "
    "padding_mode",
    "BatchNorm": "num_features eps momentum affine bias track_running_stats",
    "LayerNorm": "normalized_shape eps elementwise_affine bias",
    "GroupNorm": "num_groups num_channels eps affine bias",
}
_KIND = re.compile(rf"({'|'.join(_ARGUMENTS)})(?:([123])d)?")
_ALIASES = {"NonDynamicallyQuantizableLinear": "Linear", "SyncBatchNorm": "BatchNorm"}
_NAMES = ("weight", "bias", "running_mean", "running_var")
_EMBEDDING = re.compile("emb|lookup|lut|wte|wpe|tok", re.IGNORECASE)
_NO_EMBEDDING = re.compile("proj|linear|dense|fc|head|out", re.IGNORECASE)  # matrices that stand beside embeddings
_GROUP_NORM = re.compile("group|(?:^|_)gn", re.IGNORECASE)


def known_layer(prefix: str, weights: dict[str, Any], group: Group) -> LayerInfo | None:
    """The layer; None where the arrays are not those of a layer that is known.

    Parameters
    ----------
    weights : dict
        What `folded` makes of the group.
    """
    weights = {name: weights[name] for name in _NAMES if name in weights}
    shapes: Shapes = {name: weight.shape for name, weight in weights.items() if hasattr(weight, "shape")}
    dtype = common_dtype(weights.values()) if weights.keys() == shapes.keys() else None
    name = class_in_torch(group.module)
    kind = _ALIASES.get(name, name) or _kind(prefix, shapes)
    found = _KIND.fullmatch(kind)
    if dtype is None or found is None:
        return None
    options = _options(group.module)
    sizes = _sizes(found[1], int(found[2] or 0), shapes, options.get("groups", 1))
    if sizes is None or group.twice:
        return None
    arguments = {name: value for name in _ARGUMENTS[found[1]].split() for value in [(options | sizes).get(name)]}
    n_parameters = sum(weights[name].size for name in ("weight", "bias") if name in weights)
    return LayerInfo(prefix, kind, {n: a for n, a in arguments.items() if a is not None}, dtype, n_parameters)


def class_in_torch(module: Opaque | None) -> str:
    """The name of the module's class, where that is one of torch.nn or what TorchScript made of one."""
    if module is None or not module.module.removeprefix("__torch__.").startswith("torch.nn."):
        return ""
    return module.name


def _kind(prefix: str, shapes: Shapes) -> str:
    """What shapes tell, and between two of one shape the name; empty where they tell nothing."""
    weight, bias = shapes.get("weight", ()), shapes.get("bias")
    name = next((part for part in reversed(prefix.split(".")) if part and not part.isdecimal()), "")
    if "running_mean" in shapes and "running_var" in shapes:
        return "BatchNorm"
    if weight == bias:
        return "GroupNorm" if len(weight) == 1 and _GROUP_NORM.search(name) else "LayerNorm"
    if len(weight) == 2:
        is_embedding = bias is None and _EMBEDDING.search(name) and not _NO_EMBEDDING.search(name)
        return "Embedding" if is_embedding else "Linear"
    return f"Conv{len(weight) - 2}d"


def _sizes(kind: str, dimensions: int, shapes: Shapes, groups: int) -> dict[str, Any] | None:
    """The arguments that shapes tell; None where the shapes are not such a layer's."""
    weight, bias = shapes.get("weight", ()), shapes.get("bias")
    vectors = set(shapes.values())
    sizes: dict[str, Any] = {"bias": bias is not None}
    match kind, len(weight):
        case "Linear", 2:
            rows = weight[:1]
            sizes |= {"in_features": weight[1], "out_features": weight[0]}
        case "Embedding", 2 if bias is None:
            rows = ()
            sizes |= {"num_embeddings": weight[0], "embedding_dim": weight[1]}
        case "Conv" | "ConvTranspose", n if n == 2 + dimensions and n > 2:
            inputs, outputs = weight[1] * groups, weight[0]
            if kind == "ConvTranspose":
                inputs, outputs = outputs, inputs
            rows = (outputs,)
            sizes |= {"in_channels": inputs, "out_channels": outputs, "kernel_size": weight[2:]}
        case "BatchNorm", _ if len(vectors) == 1 and len(rows := vectors.pop()) == 1:
            track = "running_mean" in shapes
            sizes |= {"num_features": rows[0], "affine": weight == rows, "track_running_stats": track}
        case "LayerNorm", n if n > 0:
            rows = weight
            sizes |= {"normalized_shape": weight, "elementwise_affine": True}
        case "GroupNorm", 1:
            rows = weight
            sizes |= {"num_channels": weight[0], "affine": True}
        case _:
            return None
    return sizes if bias in (None, rows) else None


def _options(module: Opaque | None) -> dict[str, Any]:
    """Plain values among a module's attributes."""
    state = module.state if module is not None and isinstance(module.state, dict) else {}
    options = {name: value for name, value in state.items() if isinstance(name, str) and _is_plain(value)}
    if type(options.get("groups")) is not int or options["groups"] < 1:
        options.pop("groups", None)
    return options


def _is_plain(value: Any) -> bool:
    if isinstance(value, tuple):
        return len(value) <= 3 and all(type(item) is int for item in value)
    return type(value) in (bool, int, float) or (type(value) is str and value.isidentifier() and len(value) < 20)
