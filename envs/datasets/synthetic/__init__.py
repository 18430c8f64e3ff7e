"""`synthetic-aerial`: overhead scenes drawn on demand from a seed, with exact masks and queries."""

from envs.datasets.synthetic.queries import Query, scene_queries
from envs.datasets.synthetic.scene import Scene, SceneObject, draw_scene, scene_generators
from envs.datasets.synthetic.source import SyntheticAerial

__all__ = [
    "Query",
    "Scene",
    "SceneObject",
    "SyntheticAerial",
    "draw_scene",
    "scene_generators",
    "scene_queries",
]
