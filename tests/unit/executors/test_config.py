"""Choosing a segmenter: names, defaults, and one sentence for each mistake."""

from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path

import pytest
import sam2
import torch
from pydantic import ValidationError
from sam2.modeling.backbones.hieradet import Hiera

from envs.executors import SEGMENTER_FAMILIES, open_executors
from envs.executors.config import ExecutorConfig
from envs.executors.decoding.promptable import in_bfloat16
from envs.executors.families import build_segmenter
from envs.executors.families.box import BoxSegmenter
from envs.executors.families.sam2 import build_model, published_config, read_description
from prompter.errors import UserError
from recipes.commands.arguments import parse_executor
from tests.fixtures.segmenters import save_sam, save_sam2


def test_every_family_has_a_builder_and_says_what_it_runs() -> None:
    for name, entry in SEGMENTER_FAMILIES.entries.items():
        assert inspect.signature(SEGMENTER_FAMILIES[name]).parameters.keys() == {"config"}
        assert entry.description


def test_importing_the_registry_imports_no_torch() -> None:
    code = "import sys, envs.executors; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_unknown_names_get_a_suggestion() -> None:
    with pytest.raises(ValidationError, match="Did you mean 'mobile-sam'"):
        ExecutorConfig(family="mobilesam")
    with pytest.raises(ValidationError, match="Did you mean 'actors'"):
        ExecutorConfig(actor=2)  # type: ignore[call-arg]
    with pytest.raises(ValidationError):
        ExecutorConfig(cache_dtype="float8")  # type: ignore[arg-type]


def test_from_text() -> None:
    config = ExecutorConfig.from_text("sam2:facebook/sam2.1-hiera-small", dtype="bfloat16")
    assert (config.family, config.model, config.dtype) == ("sam2", "facebook/sam2.1-hiera-small", "bfloat16")
    assert config.name == "sam2:sam2.1-hiera-small"
    assert ExecutorConfig.from_text("box").name == "box"


@pytest.mark.parametrize("family", ["segment-anything", "sam2", "huggingface"])
def test_families_without_a_default_need_a_model(family: str) -> None:
    with pytest.raises(UserError, match=f"{family}.*needs `model`"):
        build_segmenter(ExecutorConfig(family=family))


@pytest.mark.parametrize("family", ["mobile-sam", "segment-anything", "sam2", "huggingface", "onnx"])
def test_a_missing_file_is_named(family: str) -> None:
    with pytest.raises(UserError, match=r"/nowhere/model\.pth"):
        build_segmenter(ExecutorConfig(family=family, model="/nowhere/model.pth"))


def test_a_mistyped_hub_id_gets_a_suggestion() -> None:
    with pytest.raises(UserError, match=r"Did you mean 'facebook/sam2\.1-hiera-small'"):
        build_segmenter(ExecutorConfig(family="sam2", model="facebook/sam2.1-hiera-smal"))


@pytest.mark.parametrize("family", ["mobile-sam", "segment-anything", "sam2"])
def test_files_that_are_no_checkpoint(family: str, tmp_path: Path) -> None:
    text, other = tmp_path / "text.pth", tmp_path / "other.pth"
    text.write_text("not a checkpoint")
    with pytest.raises(UserError, match=r"text\.pth"):
        build_segmenter(ExecutorConfig(family=family, model=str(text)))
    torch.save({"weight": torch.zeros(3)}, other)
    with pytest.raises(UserError, match=r"other\.pth"):
        build_segmenter(ExecutorConfig(family=family, model=str(other)))


def test_a_checkpoint_that_runs_code_is_not_loaded(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str, ...]]:
            return (Path.touch, (tmp_path / "ran",))  # type: ignore[return-value]

    path = tmp_path / "evil.pth"
    torch.save({"model": Evil()}, path)
    with pytest.raises(UserError, match=r"evil\.pth"):
        build_segmenter(ExecutorConfig(family="mobile-sam", model=str(path)))
    assert not (tmp_path / "ran").exists()


def test_incomplete_checkpoints_name_what_is_missing(tmp_path: Path) -> None:
    config = save_sam(tmp_path)
    state = torch.load(str(config.model), weights_only=True)
    del state["mask_decoder.iou_token.weight"]
    torch.save(state, str(config.model))
    with pytest.raises(UserError, match=r"iou_token"):
        build_segmenter(config)


def test_a_sam2_description_may_only_name_its_own_classes(tmp_path: Path) -> None:
    config = save_sam2(tmp_path)
    yaml = Path(str(config.model)).with_suffix(".yaml")
    yaml.write_text(yaml.read_text().replace("sam2.modeling.sam2_base.SAM2Base", "os.system"))
    with pytest.raises(UserError, match=r"os\.system"):
        build_segmenter(config)
    yaml.write_text("other: 1\n")
    with pytest.raises(UserError, match="no `model` section"):
        read_description(yaml)
    with pytest.raises(UserError, match=r"subprocess\.run"):
        build_model({"neck": [{"_target_": "subprocess.run"}]}, yaml)


@pytest.mark.parametrize("size", ["t", "s", "b+", "l"])
@pytest.mark.parametrize("version", ["2", "2.1"])
def test_published_sam2_sizes_are_recognised(size: str, version: str) -> None:
    name = f"configs/sam{version}/sam{version}_hiera_{size}.yaml"
    description = read_description(Path(sam2.__path__[0]) / name)
    trunk = description["image_encoder"]["trunk"]
    defaults = inspect.signature(Hiera).parameters
    width = trunk.get("embed_dim", defaults["embed_dim"].default)
    depth = sum(trunk.get("stages", defaults["stages"].default))
    state = {"image_encoder.trunk.patch_embed.proj.weight": torch.zeros(width, 3, 7, 7)}
    state |= {f"image_encoder.trunk.blocks.{i}.norm1.weight": torch.zeros(1) for i in range(depth)}
    if description.get("no_obj_embed_spatial"):
        state["no_obj_embed_spatial"] = torch.zeros(1)
    assert published_config(state, Path("x.pt")) == name


@pytest.mark.parametrize(("version", "expected"), [("2", False), ("2.1", True)])
def test_what_tells_the_versions_apart(version: str, expected: bool, tmp_path: Path) -> None:
    state = torch.load(str(save_sam2(tmp_path, version).model), weights_only=True)["model"]
    assert ("no_obj_embed_spatial" in state) is expected


@pytest.mark.parametrize(("native", "expected"), [(True, "bfloat16"), (False, "float32")])
def test_the_automatic_type_is_what_the_processor_computes_in(
    native: bool, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: native)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    if not torch.cuda.is_available():
        assert in_bfloat16("auto") is native
    assert in_bfloat16(True) and not in_bfloat16(False)
    config = save_sam(tmp_path).model_copy(update={"device": "cpu"})
    chosen = build_segmenter(config.model_copy(update={"dtype": expected})).fingerprint
    assert build_segmenter(config.model_copy(update={"dtype": "auto"})).fingerprint == chosen
    named = parse_executor("mobile-sam,dtype=auto,device=cpu")
    assert named is not None and named.dtype == expected
    distant = parse_executor("mobile-sam,dtype=auto,device=cpu,backend=ray")
    assert distant is not None and distant.dtype == "auto"


def test_fingerprints_tell_weights_and_types_apart(tmp_path: Path) -> None:
    config = save_sam(tmp_path)
    first = build_segmenter(config).fingerprint
    assert build_segmenter(config).fingerprint == first
    assert build_segmenter(config.model_copy(update={"dtype": "bfloat16"})).fingerprint != first
    assert build_segmenter(config.model_copy(update={"multimask": "best"})).fingerprint == first
    state = torch.load(str(config.model), weights_only=True)
    state["image_encoder.neck.0.weight"] += 1
    torch.save(state, str(config.model))
    assert build_segmenter(config).fingerprint != first


def test_several_at_once_are_closed_when_one_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    closed = []
    monkeypatch.setattr(
        "envs.executors.serving.local.LocalExecutor.close", lambda self: closed.append(self.name)
    )
    with pytest.raises(UserError):
        open_executors([ExecutorConfig(family="box"), ExecutorConfig(family="sam2")])
    assert closed == ["box"]
    (one,) = open_executors([ExecutorConfig(family="box")])
    assert isinstance(one.segmenter, BoxSegmenter)
