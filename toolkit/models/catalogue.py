"""The timm networks that `--arch auto` chooses from: a short table, fastest on a GPU first.

licence, millions, pixels: of timm's weights, by timm 1.0.31; pixels is the side of the squares they were made for.
accuracy: published, in per cent of ImageNet's validation photos at `pixels`. `measure` says how it was measured:
    top-1      by its own classifier (huggingface/pytorch-image-models, results/results-imagenet.csv, 30 Oct 2025)
    linear     by a linear probe of the frozen network (DINOv2, https://github.com/facebookresearch/dinov2)
    zero-shot  by the names of the classes, untrained (SigLIP 2, https://arxiv.org/abs/2502.14786)
    None       no figure that could be checked
gpu, cpu: published images a second of a forward pass at `pixels`, None if there is no such figure. They rank networks;
they do not say how fast this machine is. Both are of timm's results folder too: gpu of an RTX 4090 in mixed precision
(benchmark-infer-amp-nhwc-pt240-cu124-rtx4090.csv), cpu of an i9-10940X in float32, compiled, one photo a batch
(benchmark-infer-fp32-nchw-pt240-cpu-i9_10940x-dynamo.csv).
Each network pools as timm's weights do: by the class token, by attention or by the average.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Network:
    "A network of timm with its pretrained weights. The module says what the figures mean."

    name: str
    licence: str
    millions: float  # of parameters, without a classifier's
    pixels: int
    accuracy: float | None
    measure: str | None
    gpu: float | None
    cpu: float | None

    @property
    def repository(self) -> str:
        "Its repository on the Hugging Face hub."
        return f"timm/{self.name}"


def _row(
    name: str, licence: str, millions: float, pixels: int, accuracy: float | None, gpu: float | None, cpu: float | None
) -> Network:
    return Network(name, licence, millions, pixels, accuracy, None if accuracy is None else "top-1", gpu, cpu)


NETWORKS = (
    _row("mobilenetv4_conv_small.e2400_r224_in1k", "apache-2.0", 2.5, 224, 73.8, 45334, 247),
    _row("levit_128s.fb_dist_in1k", "apache-2.0", 7.0, 224, 76.5, 31792, 253),
    _row("vit_tiny_patch16_224.augreg_in21k_ft_in1k", "apache-2.0", 5.5, 224, 75.5, 17590, 182),
    _row("mobilenetv3_large_100.miil_in21k_ft_in1k", "apache-2.0", 4.2, 224, 77.9, 16892, 176),
    _row("mobilenetv4_conv_medium.e500_r224_in1k", "apache-2.0", 8.4, 224, 79.1, 14222, 115),
    _row("levit_256.fb_dist_in1k", "apache-2.0", 17.9, 224, 81.5, 14077, 138),
    _row("mobilenetv2_100.ra_in1k", "apache-2.0", 2.2, 224, 72.9, 11768, 188),
    _row("hgnetv2_b0.ssld_stage2_ft_in1k", "apache-2.0", 3.9, 224, 77.4, 10948, 178),
    _row("efficientnet_b0.ra4_e3600_r224_in1k", "apache-2.0", 4.0, 224, 78.6, 9832, 100),
    _row("tf_efficientnet_lite0.in1k", "apache-2.0", 3.4, 224, 74.8, 9765, 143),
    _row("tiny_vit_5m_224.dist_in22k_ft_in1k", "apache-2.0", 5.1, 224, 80.9, 7866, 74),
    _row("vit_small_patch16_224.augreg_in21k_ft_in1k", "apache-2.0", 21.7, 224, 81.4, 7696, 76),
    _row("mobilenetv4_hybrid_medium.ix_e550_r256_in1k", "apache-2.0", 9.8, 256, 81.5, 7461, 80),
    _row("hgnetv2_b4.ssld_stage2_ft_in1k", "apache-2.0", 17.7, 224, 83.7, 7067, 72),
    _row("tf_efficientnet_lite1.in1k", "apache-2.0", 4.1, 240, 76.7, 6636, 113),
    _row("convnext_nano.in12k_ft_in1k", "apache-2.0", 15.0, 224, 82.3, 6329, 62),
    _row("tf_efficientnet_lite2.in1k", "apache-2.0", 4.8, 260, 77.5, 5161, 100),
    _row("convnext_tiny.in12k_ft_in1k", "apache-2.0", 27.8, 224, 84.2, 4845, 69),
    _row("tiny_vit_21m_224.dist_in22k_ft_in1k", "apache-2.0", 20.6, 224, 85.1, 4303, 51),
    _row("resnet152.tv2_in1k", "bsd-3-clause", 58.1, 176, 80.2, 3830, 32),
    Network("vit_base_patch16_siglip_224.v2_webli", "apache-2.0", 92.9, 224, 78.2, "zero-shot", 2830, 33),
    _row("vit_mediumd_patch16_reg4_gap_256.sbb2_e200_in12k_ft_in1k", "apache-2.0", 63.6, 256, 86.6, 2111, 23),
    _row("convnextv2_tiny.fcmae_ft_in22k_in1k", "cc-by-nc-4.0", 27.9, 224, 83.9, 2107, 61),
    Network("vit_small_patch14_reg4_dinov2.lvd142m", "apache-2.0", 22.1, 518, 80.9, "linear", 861, 12),
    _row("vit_small_patch16_dinov3.lvd1689m", "dinov3-license", 21.6, 256, None, None, None),
)
"The table."

NON_COMMERCIAL = ("-nc", "noncommercial", "research", "apple-amlr")
"Parts of the names of licences that forbid commercial use, as timm spells them."


def forbids_commerce(licence: str | None) -> bool:
    """True if a licence forbids commercial use, by its name. One that is not known, None, does not.

    Licences with other conditions (dinov3-license) are not among them: whoever ships a model has to read them.
    """
    return licence is not None and any(part in licence for part in NON_COMMERCIAL)


def by_accuracy(network: Network | None) -> float:
    "The published accuracy, to sort by; 0 if there is none, or none that was measured after training on ImageNet."
    known = network is not None and network.measure in ("top-1", "linear")
    return network.accuracy if known else 0.0
