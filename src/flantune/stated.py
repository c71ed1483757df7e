"""YAML that people write: recipes, tasks, benchmarks. As PyYAML's safe loader reads it, but no key is stated twice."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import yaml


def load_stated(text: str) -> Any:
    """Raises yaml.YAMLError, which names line and column: for what is no YAML, and for a key that stands twice in one
    mapping, of which PyYAML would take the last and say nothing."""
    return yaml.load(text, _Loader)


class _Loader(yaml.SafeLoader):
    pass


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Hashable, Any]:
    first: dict[Hashable, yaml.Mark] = {}
    for key_node, _ in node.value:
        if not isinstance(key_node, yaml.ScalarNode) or key_node.tag == "tag:yaml.org,2002:merge":
            continue  # what is merged in may be stated anew
        key = loader.construct_object(key_node)
        if key in first:
            raise yaml.constructor.ConstructorError(
                "the first is here", first[key], f"key '{key}' is stated a second time here", key_node.start_mark
            )
        first[key] = key_node.start_mark
    return loader.construct_mapping(node, deep=True)


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)
