"""One Stable Diffusion from a folder, an original checkpoint and the hub: the same to the bit, every key used once."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from shared.errors import PinholeError
from tests.training.official_stand_ins import (
    OVERRIDES,
    original_state,
    save_diffusers_folder,
    save_lightning,
    save_original_checkpoint,
    spell_attention_as_of_old,
)
from tests.training.paper_stand_ins import CONTEXT_WIDTH, TOKENS
from training.paper import prompt
from training.paper.sources import locate, needed_files
from training.paper.stable_diffusion import (
    StableDiffusionParts,
    build_stable_diffusion,
    load_stable_diffusion,
    read_stable_diffusion,
)

WEIGHTS = "diffusion_pytorch_model.safetensors"


def change(folder: Path, file: str, **values: object) -> None:
    path = folder / file
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@pytest.fixture(scope="module")
def official(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("transformers")
    return save_diffusers_folder(tmp_path_factory.mktemp("official") / "sd")


@pytest.fixture(scope="module")
def original(official: Path) -> dict[str, Tensor]:
    return {name: value.contiguous() for name, value in original_state(official).items()}


@pytest.fixture
def copy(official: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(official, tmp_path / "sd"))


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def assert_same_parts(first: StableDiffusionParts, second: StableDiffusionParts) -> None:
    assert same(first.vae, second.vae)
    assert same(first.unet, second.unet)
    assert first.vae_config == second.vae_config
    assert first.unet_config == second.unet_config
    assert first.context is not None
    assert second.context is not None
    torch.testing.assert_close(first.context, second.context)


@pytest.mark.parametrize("name", ["v2-1_512-ema-pruned.ckpt", "v2-1_512-ema-pruned.safetensors", "legacy.ckpt"])
def test_the_original_checkpoint_is_the_folder_to_the_bit(official: Path, tmp_path: Path, name: str) -> None:
    path = save_original_checkpoint(tmp_path / name, official, legacy=name.startswith("legacy"))
    first, second = read_stable_diffusion(str(official)), read_stable_diffusion(str(path), OVERRIDES)
    assert_same_parts(first, second)
    json.dumps([second.vae_config, second.unet_config])
    assert [(f.source, f.file, f.safetensors) for f in second.files["unet"]] == [(str(tmp_path), name, False)]
    with pytest.raises(PinholeError, match=r"cannot refer to the unet of .*give such a folder"):
        second.reference("unet")
    assert read_stable_diffusion(str(path), OVERRIDES, prompt=False).context is None


def test_a_folder_can_be_referred_to(official: Path) -> None:
    parts = read_stable_diffusion(str(official))
    for part in ("vae", "unet"):
        reference = parts.reference(part)
        assert (reference.source, reference.file) == (str(official.resolve()), f"{part}/{WEIGHTS}")
        assert same(load_file(reference.path), getattr(parts, part))
    assert parts.context is not None
    assert parts.context.shape == (1, TOKENS, CONTEXT_WIDTH)


def test_networks_load_from_the_original_checkpoint(tmp_path: Path) -> None:
    path = save_official_numbers(tmp_path)
    picture, latent = torch.rand(1, 3, 64, 64) * 2 - 1, torch.randn(1, 4, 16, 16)
    first, second = load_stable_diffusion(str(tmp_path / "sd")), load_stable_diffusion(str(path))
    assert torch.equal(first.encode(picture, sample=False), second.encode(picture, sample=False))
    assert torch.equal(first.decode(latent), second.decode(latent))
    context = torch.randn(1, TOKENS, CONTEXT_WIDTH)
    estimates = [model.unet(latent, 500, context).sample for model in (first, second)]
    assert torch.equal(*estimates)
    built = build_stable_diffusion(str(path)).state_dict()
    assert {name: value.shape for name, value in built.items()} == {n: v.shape for n, v in first.state_dict().items()}


def save_official_numbers(place: Path) -> Path:
    """Loading for training takes no overrides, so this one has the official groups, head channels and scale."""
    save_diffusers_folder(place / "sd")
    vae: dict[str, Any] = {"block_out_channels": [32] * 4, "norm_num_groups": 32, "scaling_factor": 0.18215}
    unet = {"block_out_channels": [32] * 4, "norm_num_groups": 32, "attention_head_dim": 1}
    change(place / "sd", "vae/config.json", **vae)
    change(place / "sd", "unet/config.json", **unet)
    built = build_stable_diffusion(str(place / "sd"))
    built.vae.save_pretrained(place / "sd" / "vae")
    built.unet.save_pretrained(place / "sd" / "unet")
    return save_original_checkpoint(place / "sd.ckpt", place / "sd")


def test_half_precision_split_and_pickled_weights_are_read(official: Path, tmp_path: Path) -> None:
    whole = read_stable_diffusion(str(official))
    for name, options in (
        ("split", {"max_shard_size": "100KB"}),
        ("pickled", {"safe_serialization": False}),
        ("half", {"variant": "fp16"}),
    ):
        save_diffusers_folder(tmp_path / name, **options)
        parts = read_stable_diffusion(str(tmp_path / name))
        assert_same_parts(whole, parts)
        if name == "half":
            assert parts.reference("unet").file == "unet/diffusion_pytorch_model.fp16.safetensors"
        else:
            with pytest.raises(PinholeError, match="cannot refer to the unet"):
                parts.reference("unet")
    assert len(read_stable_diffusion(str(tmp_path / "split")).files["unet"]) > 2
    # What is there in full precision and as safetensors comes first.
    shutil.copytree(tmp_path / "half" / "unet", tmp_path / "pickled" / "unet", dirs_exist_ok=True)
    assert read_stable_diffusion(str(tmp_path / "pickled")).files["unet"][0].file.endswith("fp16.safetensors")
    shutil.copytree(official / "unet", tmp_path / "pickled" / "unet", dirs_exist_ok=True)
    assert read_stable_diffusion(str(tmp_path / "pickled")).files["unet"][0].file == f"unet/{WEIGHTS}"


def test_old_names_of_the_attention_are_read(official: Path, copy: Path) -> None:
    spell_attention_as_of_old(copy)
    assert "decoder.mid_block.attentions.0.query.weight" in load_file(copy / "vae" / WEIGHTS)
    assert_same_parts(read_stable_diffusion(str(official)), read_stable_diffusion(str(copy)))
    both = load_file(copy / "vae" / WEIGHTS) | load_file(official / "vae" / WEIGHTS)
    save_file(both, copy / "vae" / WEIGHTS)
    with pytest.raises(PinholeError, match="under old and new names"):
        read_stable_diffusion(str(copy))


@pytest.mark.parametrize("part", ["vae", "unet"])
def test_every_key_of_a_folder_counts(copy: Path, part: str) -> None:
    path = copy / part / WEIGHTS
    state = load_file(path)
    name = next(name for name in sorted(state) if name.endswith("conv_in.weight"))
    save_file({key: value for key, value in state.items() if key != name}, path)
    with pytest.raises(PinholeError, match=rf"{part}/: keys 1 missing \({name}\)"):
        load_stable_diffusion(str(copy))
    save_file(state | {"surprise": torch.zeros(1)}, path)
    with pytest.raises(PinholeError, match=r"1 unknown \(surprise\)"):
        load_stable_diffusion(str(copy))
    save_file(state | {name: state[name][:, :2].contiguous()}, path)
    with pytest.raises(PinholeError, match=rf"1 of another shape \({name} "):
        load_stable_diffusion(str(copy))
    save_file(state | {name: state[name] * float("nan")}, path)
    with pytest.raises(PinholeError, match=rf"{name} holds NaN"):
        load_stable_diffusion(str(copy))
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(PinholeError, match="no checkpoint, damaged or cut off"):
        load_stable_diffusion(str(copy))
    path.unlink()
    with pytest.raises(PinholeError, match=rf"cannot load {part}/ of .*no weights in it"):
        load_stable_diffusion(str(copy))


def test_entries_that_nothing_computes_with_do_not_count(official: Path, copy: Path) -> None:
    change(copy, "unet/config.json", sample_size=64, conditions="none", _diffusers_version="0.8.0")
    change(copy, "vae/config.json", sample_size=768, force_upcast=False)
    assert_same_parts(read_stable_diffusion(str(official)), read_stable_diffusion(str(copy)))


def test_configs_that_make_no_network_are_refused(copy: Path) -> None:
    change(copy, "unet/config.json", _class_name="FluxTransformer2DModel")
    with pytest.raises(PinholeError, match="config is of FluxTransformer2DModel"):
        read_stable_diffusion(str(copy))
    change(copy, "unet/config.json", _class_name="UNet2DConditionModel", down_block_types=["Nothing"])
    with pytest.raises(PinholeError, match="no UNet2DConditionModel can be built"):
        read_stable_diffusion(str(copy))


def test_an_index_that_lies_is_refused(tmp_path: Path) -> None:
    save_diffusers_folder(tmp_path, text_encoder=False, max_shard_size="100KB")
    path = tmp_path / "unet" / f"{WEIGHTS}.index.json"
    index = json.loads(path.read_text())
    name = next(iter(index["weight_map"]))
    file = index["weight_map"][name]
    for files, message in (
        ({"surprise": file}, "does not hold what"),
        ({name: f"../vae/{WEIGHTS}"}, "no index of weights"),
        ({key: "nowhere" for key, place in index["weight_map"].items() if place == file}, "does not exist"),
    ):
        path.write_text(json.dumps({"weight_map": index["weight_map"] | files}))
        with pytest.raises(PinholeError, match=message):
            read_stable_diffusion(str(tmp_path))
    path.write_text("{}")
    with pytest.raises(PinholeError, match="no index of weights"):
        read_stable_diffusion(str(tmp_path))


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("first_stage_model.decoder.up.3.block.0.conv1.bias", r"missing \(first_stage_model\.decoder\.up\.3\.block\.0"),
        ("first_stage_model.encoder.mid.attn_1.q.weight", r"missing \(first_stage_model\.encoder\.mid\.attn_1\.q"),
        ("model.diffusion_model.output_blocks.1.1.conv.bias", r"missing \(model\.diffusion_model\.output_blocks\.1\.1"),
        ("cond_stage_model.model.ln_final.bias", r"text encoder: keys .*missing \(ln_final\.bias\)"),
    ],
)
def test_every_key_of_an_original_checkpoint_counts(
    original: dict[str, Tensor], tmp_path: Path, name: str, shown: str
) -> None:
    path = save_lightning(tmp_path / "a.ckpt", {key: value for key, value in original.items() if key != name})
    with pytest.raises(PinholeError, match=shown):
        read_stable_diffusion(str(path), OVERRIDES)
    save_lightning(path, original | {f"{name}.more": torch.zeros(1)})
    with pytest.raises(PinholeError, match=rf"1 unknown \(.*{name.rpartition('.')[2]}\.more\)"):
        read_stable_diffusion(str(path), OVERRIDES)
    save_lightning(path, original | {name: torch.zeros(1, 2, 3)})
    with pytest.raises(PinholeError, match=r"of another shape \(.* \(1, 2, 3\) for "):
        read_stable_diffusion(str(path), OVERRIDES)


def test_other_schedules_and_foreign_keys_in_a_checkpoint_are_refused(
    original: dict[str, Tensor], tmp_path: Path
) -> None:
    path = tmp_path / "a.safetensors"
    for name in ("betas", "alphas_cumprod"):
        for other in (original[name] * 1.01, original[name][:500]):
            save_file(original | {name: other.contiguous()}, path)
            with pytest.raises(PinholeError, match=rf"{name} is not the training schedule"):
                read_stable_diffusion(str(path), OVERRIDES)
        save_file(original | {name: original[name].half()}, path)
        read_stable_diffusion(str(path), OVERRIDES, prompt=False)
    save_file(original | {"surprise.weight": torch.zeros(1)}, path)
    with pytest.raises(PinholeError, match=r"1 keys belong to no part of Stable Diffusion \(surprise\.weight\)"):
        read_stable_diffusion(str(path), OVERRIDES)


def test_official_widths_are_taken_for_granted_without_overrides(original: dict[str, Tensor], tmp_path: Path) -> None:
    save_file(original, tmp_path / "a.safetensors")
    with pytest.raises(PinholeError, match="no AutoencoderKL can be built of the config"):
        read_stable_diffusion(str(tmp_path / "a.safetensors"))
    with pytest.raises(PinholeError, match="overrides: 'unet' is no table"):
        read_stable_diffusion(str(tmp_path / "a.safetensors"), {"unet": {}})


REPOSITORY = [
    "README.md",
    "v2-1_512-ema-pruned.ckpt",
    "model_index.json",
    "scheduler/scheduler_config.json",
    "tokenizer/merges.txt",
    "tokenizer/vocab.json",
    "text_encoder/config.json",
    "text_encoder/model.safetensors",
    "text_encoder/pytorch_model.bin",
    "vae/config.json",
    "vae/diffusion_pytorch_model.bin",
    "vae/diffusion_pytorch_model.fp16.bin",
    "vae/diffusion_pytorch_model.fp16.safetensors",
    "unet/config.json",
    "unet/diffusion_pytorch_model.bin",
    "unet/diffusion_pytorch_model.safetensors.index.json",
    "unet/diffusion_pytorch_model-00001-of-00002.safetensors",
    "unet/diffusion_pytorch_model-00002-of-00002.safetensors",
    "unet/diffusion_pytorch_model-00001-of-00002.bin",
]


def test_only_what_is_needed_is_fetched() -> None:
    assert needed_files(REPOSITORY) == sorted(
        [
            "scheduler/scheduler_config.json",
            "tokenizer/merges.txt",
            "tokenizer/vocab.json",
            "text_encoder/config.json",
            "text_encoder/model.safetensors",
            "vae/config.json",
            "vae/diffusion_pytorch_model.fp16.safetensors",
            "unet/config.json",
            "unet/diffusion_pytorch_model.safetensors.index.json",
            "unet/diffusion_pytorch_model-00001-of-00002.safetensors",
            "unet/diffusion_pytorch_model-00002-of-00002.safetensors",
        ]
    )
    assert needed_files([*REPOSITORY, "empty_prompt.safetensors"], ["scheduler"]) == [
        "empty_prompt.safetensors",
        "scheduler/scheduler_config.json",
    ]


def test_a_hub_id_is_fetched_and_recorded(official: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = pytest.importorskip("huggingface_hub")
    files = [str(path.relative_to(official)) for path in official.rglob("*") if path.is_file()] + ["big.ckpt"]
    asked: list[Any] = []

    def model_info(_: Any, name: str, **options: Any) -> Any:
        asked.append(name)
        return SimpleNamespace(siblings=[SimpleNamespace(rfilename=file) for file in files])

    def snapshot_download(name: str, allow_patterns: list[str]) -> str:
        asked.append(allow_patterns)
        return str(official)

    monkeypatch.setattr(hub.HfApi, "model_info", model_info)
    monkeypatch.setattr(hub, "snapshot_download", snapshot_download)
    parts = read_stable_diffusion("somebody/stable-diffusion-2-1-base")
    assert asked == ["somebody/stable-diffusion-2-1-base", sorted(set(files) - {"big.ckpt"})]
    reference = parts.reference("unet")
    assert (reference.source, reference.file) == ("somebody/stable-diffusion-2-1-base", f"unet/{WEIGHTS}")
    assert_same_parts(parts, read_stable_diffusion(str(official)))


def test_without_a_network_the_hubs_cache_is_read_or_the_mend_named(
    official: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = pytest.importorskip("huggingface_hub")
    monkeypatch.setattr(hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(PinholeError, match=r"somebody/sd does not exist here and cannot be fetched .*; give a folder"):
        read_stable_diffusion("somebody/sd")
    kept = tmp_path / "models--somebody--sd"
    shutil.copytree(official, kept / "snapshots" / ("a" * 40))
    (kept / "refs").mkdir()
    (kept / "refs" / "main").write_text("a" * 40)
    assert_same_parts(read_stable_diffusion("somebody/sd"), read_stable_diffusion(str(official)))
    for name in ("no/such/folder", "not an id", "missing.ckpt"):
        with pytest.raises(PinholeError, match=rf"{name} does not exist"):
            locate(name)


def test_prompts_are_encoded_whole_or_refused(official: Path, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    empty, one = prompt.encode_prompt(str(official), ""), prompt.encode_prompt(str(official), "a")
    torch.testing.assert_close(empty, prompt.encode_empty_prompt(str(official)))
    encoder = transformers.CLIPTextModel.from_pretrained(official / "text_encoder").eval()
    with torch.no_grad():
        expected = encoder(torch.tensor([[2, 1, 3, 0, 0]])).last_hidden_state
    torch.testing.assert_close(one, expected)
    prompt.encode_prompt(str(official), "a a a")
    with pytest.raises(PinholeError, match=r"prompt has 6 tokens, but .* takes 5 with start and end; shorten it"):
        prompt.encode_prompt(str(official), "a a a a")
    save_file(
        {name: value.contiguous() for name, value in original_state(official).items()}, tmp_path / "a.safetensors"
    )
    with pytest.raises(PinholeError, match="has no vocabulary"):
        prompt.encode_prompt(str(tmp_path / "a.safetensors"), "a")
    assert prompt.encode_prompt(str(tmp_path / "a.safetensors"), "").shape == empty.shape


def test_a_text_encoder_that_lacks_weights_is_refused(copy: Path) -> None:
    path = copy / "text_encoder" / "model.safetensors"
    state = load_file(path)
    name = next(name for name in state if "final_layer_norm" in name)
    del state[name]
    save_file(state, path, {"format": "pt"})
    with pytest.raises(PinholeError, match=r"lacks weights of its config .*final_layer_norm"):
        prompt.encode_prompt(str(copy), "")


def test_text_encoders_as_they_are_published_are_read(official: Path, copy: Path) -> None:
    expected = prompt.encode_prompt(str(official), "a")
    # Published files have one more level of names, and some a list of positions.
    path = copy / "text_encoder" / "model.safetensors"
    state = {f"text_model.{name.removeprefix('text_model.')}": value for name, value in load_file(path).items()}
    state["text_model.embeddings.position_ids"] = torch.arange(TOKENS)[None]
    save_file(state, path, {"format": "pt"})
    torch.testing.assert_close(prompt.encode_prompt(str(copy), "a"), expected)
    path.rename(path.with_name("model.fp16.safetensors"))
    torch.testing.assert_close(prompt.encode_prompt(str(copy), "a"), expected)


def test_a_stored_prompt_must_be_finite(tmp_path: Path) -> None:
    save_file({"context": torch.full((1, 2, 3), float("inf"))}, tmp_path / "a.safetensors")
    with pytest.raises(PinholeError, match="holds NaN or infinity"):
        prompt.stored_prompt(tmp_path / "a.safetensors")
