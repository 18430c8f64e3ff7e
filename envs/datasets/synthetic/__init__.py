"""`synthetic-aerial`: overhead scenes drawn on demand from a seed, with exact masks and queries."""

from envs.datasets.synthetic.dataset import SyntheticAerial
from envs.datasets.synthetic.queries import Query, scene_queries
from envs.datasets.synthetic.scene import Scene, SceneObject, draw_scene, scene_generators

__all__ = [
    "Query",
    "Scene",
    "SceneObject",
    "SyntheticAerial",
    "draw_scene",
    "scene_generators",
    "scene_queries",
]
