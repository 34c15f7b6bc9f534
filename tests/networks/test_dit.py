"""The diffusion transformer: published sizes, and diffusers' DiT with the same weights."""

import pytest
import torch
from diffusers import DiTTransformer2DModel

from networks.tiny import moved
from sfumato.networks.dit import DiT, DiTConfig


@pytest.mark.parametrize(
    ("config", "millions"),
    [
        (DiTConfig(), 33),
        (DiTConfig(channels=768, blocks=12, heads=12), 130),
        (DiTConfig(channels=1024, blocks=24, heads=16), 458),
        (DiTConfig(channels=1152, blocks=28, heads=16), 675),
    ],
)
def test_parameters_as_published(config: DiTConfig, millions: int) -> None:
    """Peebles & Xie 2023, table 1: latents of 4x32x32, 1000 classes, learned variance."""
    with torch.device("meta"):
        network = config.build((4, 32, 32), 1000, 8)
    assert round(sum(p.numel() for p in network.parameters()) / 1e6) == millions


def load_theirs(network: DiT, peer: DiTTransformer2DModel) -> None:
    """Give our network the weights of theirs, which embeds the time once for each block."""
    theirs = peer.state_dict()
    ours: dict[str, torch.Tensor] = {}
    embed = "transformer_blocks.0.norm1.emb."
    for leaf in ("weight", "bias"):
        ours[f"stem.{leaf}"] = theirs[f"pos_embed.proj.{leaf}"]
        for i in ("1", "2"):
            ours[f"embed_time.linear_{i}.{leaf}"] = theirs[
                f"{embed}timestep_embedder.linear_{i}.{leaf}"
            ]
        for i in range(len(network.blocks)):
            block = f"transformer_blocks.{i}."
            ours[f"blocks.{i}.modulate.{leaf}"] = theirs[f"{block}norm1.linear.{leaf}"]
            qkv = [theirs[f"{block}attn1.to_{part}.{leaf}"] for part in "qkv"]
            ours[f"blocks.{i}.qkv.{leaf}"] = torch.cat(qkv)
            ours[f"blocks.{i}.out.{leaf}"] = theirs[f"{block}attn1.to_out.0.{leaf}"]
            ours[f"blocks.{i}.linear_1.{leaf}"] = theirs[f"{block}ff.net.0.proj.{leaf}"]
            ours[f"blocks.{i}.linear_2.{leaf}"] = theirs[f"{block}ff.net.2.{leaf}"]
        ours[f"modulate.{leaf}"] = theirs[f"proj_out_1.{leaf}"]
        head = theirs[f"proj_out_2.{leaf}"]  # rows in the order row, column, channel
        by_pixel = head.unflatten(0, (network.patch**2, -1))
        ours[f"head.{leaf}"] = by_pixel.transpose(0, 1).flatten(0, 1)
    first = ours["embed_time.linear_1.weight"]  # they have cosines before sines
    ours["embed_time.linear_1.weight"] = torch.cat([first[:, 128:], first[:, :128]], dim=1)
    ours["embed_class.vectors.weight"] = theirs[f"{embed}class_embedder.embedding_table.weight"]
    network.load_state_dict(ours)


@pytest.mark.parametrize("patch", [1, 2, 4])
def test_it_equals_that_of_diffusers(patch: int) -> None:
    torch.manual_seed(0)
    peer = DiTTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=8,
        in_channels=3,
        out_channels=6,
        num_layers=2,
        sample_size=8,
        patch_size=patch,
        num_embeds_ada_norm=3,
        norm_eps=1e-6,
    )
    moved(peer, 0.05)
    shared = peer.transformer_blocks[0].norm1.emb
    for block in peer.transformer_blocks:
        block.norm1.emb = shared
    config = DiTConfig(patch=patch, channels=16, blocks=2, heads=2)
    network = config.build((3, 8, 8), 3, 6).eval()
    load_theirs(network, peer)
    x, step, labels = torch.randn(3, 3, 8, 8), torch.tensor([0.0, 9.0, 999.0]), torch.arange(3)
    with torch.no_grad():
        expected = peer(x, step, labels).sample
        torch.testing.assert_close(network(x, step, labels), expected, atol=1e-5, rtol=1e-5)
    assert expected.std() > 0.1


def test_it_starts_as_the_zero_function_and_its_blocks_as_the_identity() -> None:
    torch.manual_seed(0)
    network = DiTConfig(channels=16, blocks=1, heads=2).build((1, 8, 8), 0)
    assert not network(torch.randn(2, 1, 8, 8), torch.zeros(2)).any()
    tokens = torch.randn(2, 5, 16)
    assert torch.equal(network.blocks[0](tokens, torch.randn(2, 16)), tokens)


@pytest.mark.parametrize("change", [{"heads": 5}, {"channels": 6}, {"patch": 0}])
def test_impossible_values_are_refused(change: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=next(iter(change))):
        DiTConfig(**change)
