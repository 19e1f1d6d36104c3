"""Vision architectures of transformers, small and with random weights."""

from __future__ import annotations

from typing import Any

from torch import nn

from tests.zoo.model import BATCH, ZooModel, images

PIXELS = {"pixel_values": {0: BATCH}}


def build(model_class: str, config_class: str, **options: Any) -> nn.Module:
    """A transformers model of the named classes; the import is slow, so it waits until a model is built."""
    import transformers

    config = getattr(transformers, config_class)(**options)
    return getattr(transformers, model_class)(config)


def vision(name: str, model_class: str, config_class: str, *tags: str, size: int = 32, **options: Any) -> ZooModel:
    """An image classifier or backbone `pixel_values -> output object`."""
    return ZooModel(
        name=name,
        make=lambda: build(model_class, config_class, **options),
        make_inputs=images(3, size),
        tags=frozenset({"transformers", "vision", *tags}),
        dynamic=PIXELS,
        strengthen=True,
    )


def encoder(**options: Any) -> dict[str, Any]:
    """The options that the vision transformers share."""
    shared = {
        "image_size": 32,
        "patch_size": 8,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 48,
    }
    return {**shared, **options}


STAGES = {"hidden_sizes": [16, 24], "depths": [1, 2]}


def detr() -> nn.Module:
    """Detection transformer on a small ResNet, with the sine position embedding."""
    import transformers

    backbone = transformers.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", out_features=["stage2"]
    )
    config = transformers.DetrConfig(
        backbone_config=backbone,
        d_model=32,
        encoder_layers=1,
        decoder_layers=2,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=48,
        decoder_ffn_dim=48,
        num_queries=7,
    )
    return transformers.DetrForObjectDetection(config)


MODELS = [
    vision(
        "hf-resnet",
        "ResNetForImageClassification",
        "ResNetConfig",
        "cnn",
        embedding_size=8,
        layer_type="basic",
        **STAGES,
    ),
    vision(
        "hf-resnet-bottleneck",
        "ResNetForImageClassification",
        "ResNetConfig",
        "cnn",
        embedding_size=8,
        layer_type="bottleneck",
        **STAGES,
    ),
    vision(
        "hf-mobilenet-v1",
        "MobileNetV1ForImageClassification",
        "MobileNetV1Config",
        "cnn",
        depth_multiplier=0.25,
        image_size=32,
    ),
    vision(
        "hf-mobilenet-v2",
        "MobileNetV2ForImageClassification",
        "MobileNetV2Config",
        "cnn",
        depth_multiplier=0.35,
        image_size=32,
    ),
    vision("hf-convnext", "ConvNextForImageClassification", "ConvNextConfig", "cnn", num_stages=2, **STAGES),
    vision("hf-convnextv2", "ConvNextV2ForImageClassification", "ConvNextV2Config", "cnn", num_stages=2, **STAGES),
    vision(
        "hf-regnet",
        "RegNetForImageClassification",
        "RegNetConfig",
        "cnn",
        embedding_size=8,
        groups_width=8,
        **STAGES,
    ),
    vision(
        "hf-efficientnet",
        "EfficientNetForImageClassification",
        "EfficientNetConfig",
        "cnn",
        width_coefficient=0.25,
        depth_coefficient=0.3,
        hidden_dim=320,
        image_size=32,
    ),
    vision(
        "hf-bit",
        "BitForImageClassification",
        "BitConfig",
        "cnn",
        embedding_size=16,
        hidden_sizes=[32, 64],
        depths=[1, 1],
        num_groups=8,
    ),
    vision("hf-vit", "ViTForImageClassification", "ViTConfig", "encoder", **encoder()),
    vision("hf-deit", "DeiTForImageClassificationWithTeacher", "DeiTConfig", "encoder", **encoder()),
    vision(
        "hf-beit",
        "BeitForImageClassification",
        "BeitConfig",
        "encoder",
        **encoder(use_relative_position_bias=True),
    ),
    vision("hf-dinov2", "Dinov2ForImageClassification", "Dinov2Config", "encoder", **encoder(use_swiglu_ffn=True)),
    vision(
        "hf-yolos",
        "YolosForObjectDetection",
        "YolosConfig",
        "encoder",
        "detection",
        **encoder(image_size=[32, 32], num_detection_tokens=5),
    ),
    vision(
        "hf-dpt",
        "DPTForDepthEstimation",
        "DPTConfig",
        "encoder",
        "dense",
        **encoder(
            num_hidden_layers=4,
            backbone_out_indices=[0, 1, 2, 3],
            neck_hidden_sizes=[8, 8, 16, 16],
            fusion_hidden_size=16,
            reassemble_factors=[4, 2, 1, 0.5],
        ),
    ),
    vision(
        "hf-swin",
        "SwinForImageClassification",
        "SwinConfig",
        "encoder",
        image_size=32,
        patch_size=2,
        embed_dim=16,
        depths=[2, 2],
        num_heads=[2, 4],
        window_size=4,
    ),
    vision(
        "hf-swinv2",
        "Swinv2ForImageClassification",
        "Swinv2Config",
        "encoder",
        image_size=32,
        patch_size=2,
        embed_dim=16,
        depths=[2, 2],
        num_heads=[2, 4],
        window_size=4,
    ),
    vision(
        "hf-segformer",
        "SegformerForSemanticSegmentation",
        "SegformerConfig",
        "encoder",
        "dense",
        num_encoder_blocks=2,
        depths=[1, 1],
        sr_ratios=[2, 1],
        hidden_sizes=[16, 32],
        patch_sizes=[7, 3],
        strides=[4, 2],
        num_attention_heads=[1, 2],
        mlp_ratios=[2, 2],
        decoder_hidden_size=16,
    ),
    vision(
        "hf-poolformer",
        "PoolFormerForImageClassification",
        "PoolFormerConfig",
        "cnn",
        depths=[1, 1],
        hidden_sizes=[16, 24],
        num_encoder_blocks=2,
        patch_sizes=[7, 3],
        strides=[4, 2],
        padding=[2, 1],
    ),
    vision(
        "hf-mobilevit",
        "MobileViTForImageClassification",
        "MobileViTConfig",
        "cnn",
        image_size=32,
        hidden_sizes=[16, 24, 32],
        neck_hidden_sizes=[8, 8, 16, 16, 16, 24, 32],
        num_attention_heads=2,
        patch_size=1,
        output_stride=8,
    ),
    vision(
        "hf-levit",
        "LevitForImageClassification",
        "LevitConfig",
        "encoder",
        size=64,
        image_size=64,
        hidden_sizes=[16, 32, 48],
        num_attention_heads=[2, 2, 4],
        depths=[1, 1, 1],
        key_dim=[8, 8, 8],
    ),
    vision(
        "hf-pvt",
        "PvtForImageClassification",
        "PvtConfig",
        "encoder",
        image_size=32,
        num_encoder_blocks=2,
        depths=[1, 1],
        sequence_reduction_ratios=[2, 1],
        hidden_sizes=[16, 32],
        patch_sizes=[4, 2],
        strides=[4, 2],
        num_attention_heads=[1, 2],
        mlp_ratios=[2, 2],
    ),
    vision(
        "hf-cvt",
        "CvtForImageClassification",
        "CvtConfig",
        "encoder",
        embed_dim=[16, 24],
        num_heads=[1, 2],
        depth=[1, 2],
        patch_sizes=[7, 3],
        patch_stride=[4, 2],
        patch_padding=[2, 1],
        mlp_ratio=[2.0, 2.0],
        attention_drop_rate=[0.0, 0.0],
        drop_rate=[0.0, 0.0],
        drop_path_rate=[0.0, 0.0],
        qkv_bias=[True, True],
        cls_token=[False, True],
        qkv_projection_method=["dw_bn", "dw_bn"],
        kernel_qkv=[3, 3],
        padding_kv=[1, 1],
        stride_kv=[2, 2],
        padding_q=[1, 1],
        stride_q=[1, 1],
    ),
    ZooModel(
        name="hf-detr",
        make=detr,
        make_inputs=images(3, 32),
        tags=frozenset({"transformers", "vision", "detection", "encoder-decoder"}),
        dynamic=PIXELS,
        strengthen=True,
    ),
]
