"""Every dataset behind one door: `open_dataset(name, split, **options)` gives a `SampleSource`.

Importing this package is cheap: a dataset's own module is imported when it is opened.
"""

from envs.datasets.catalog import DatasetInfo
from envs.datasets.registry import dataset_info, known_datasets, may_open, open_dataset, split_name

__all__ = ["DatasetInfo", "dataset_info", "known_datasets", "may_open", "open_dataset", "split_name"]
