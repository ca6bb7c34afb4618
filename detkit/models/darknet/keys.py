"""Keys of Darknet's cfg files that leave the network as it is: training's own, and what is done with boxes later."""

from __future__ import annotations


def _keys(text: str) -> frozenset[str]:
    return frozenset(text.split())


ANYWHERE = _keys("""
    burnin_update clip dont_update dynamic_minibatch learning_rate onlyforward stopbackward train_only_bn
""")
HARMLESS = {  # section -> keys without a bearing on what the network computes
    "net": _keys("""
        adam adversarial_lr angle aspect attention augment_speed B1 B2 badlabels_rejection_percentage batch blur burn_in
        center contrastive contrastive_color contrastive_jit_flip cutmix decay dynamic_minibatch ema_alpha eps
        equidistant_point exposure flip gamma gaussian_noise hue init_sequential_subdivisions label_smooth_eps
        learning_rate learning_rate_min loss_scale max_batches max_chart_loss max_crop max_ratio min_crop min_ratio
        mixup momentum mosaic mosaic_bound num_sequential num_sigmas_reject_badlabels optimized_memory policy power
        resize_step saturation scale scales seq_scales sequential_subdivisions sgdr_cycle sgdr_mult
        show_receptive_field step steps subdivisions time_steps track try_fix_nan unsupervised use_cuda_graph
        weights_reject_freq workspace_size_limit_MB
    """),
    "convolutional": _keys("grad_centr"),
    "shortcut": _keys("weights_normalization"),  # of weights that are refused
    "dropout": _keys("dropblock dropblock_size_abs dropblock_size_rel probability"),
    "yolo": _keys("""
        beta_nms cls_normalizer counters_per_class delta_normalizer dets_for_show dets_for_track embedding_layer
        focal_loss ignore_thresh iou_loss iou_normalizer iou_thresh iou_thresh_kind jitter label_smooth_eps map max
        max_delta nms_kind obj_normalizer objectness_smooth random resize show_details sim_thresh thresh
        track_ciou_norm track_history_size truth_thresh
    """),
    "region": _keys("""
        absolute bias_match class_scale coord_scale focal_loss jitter max noobject_scale object_scale random rescore
        thresh
    """),
}
ONLY = {  # keys that change the network in ways not built here -> the values that leave it alone
    "angle": ("0",),
    "antialiasing": ("0",),
    "assisted_excitation": ("0",),
    "background": ("0",),
    "bin_output": ("0",),
    "binary": ("0",),
    "classfix": ("0",),
    "deform": ("0",),
    "dilation": ("1",),
    "dontload": ("0",),
    "dontloadscales": ("0",),
    "dot": ("0",),
    "extra": ("0",),
    "flatten": ("0",),
    "flipped": ("0",),
    "maxpool_depth": ("0",),
    "reverse": ("0",),
    "rotate": ("0",),
    "scale": ("1", "1.0"),  # of an upsampling
    "scale_wh": ("0",),
    "share_index": (),
    "softmax_tree": ("0",),
    "stretch": ("0",),
    "stretch_sway": ("0",),
    "stride_x": (),
    "stride_y": (),
    "sway": ("0",),
    "tree": (),
    "weights_type": ("none",),
    "xnor": ("0",),
}
