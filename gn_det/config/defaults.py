"""The config keys that gn_det adds to Detectron2's."""

from detectron2.config import CfgNode

__all__ = ["add_gn_config"]


def add_gn_config(cfg: CfgNode) -> None:
    """Add gn_det's keys to ``cfg``, in place. No other config and no default is touched.

    Args:
        cfg: a config of Detectron2, not frozen, with or without keys of other projects.
    """
    _C = cfg

    _C.MODEL.GN = type(cfg)()

    # Groups of every norm called "GN" in MODEL.{RESNETS,VGG,FPN,ROI_BOX_HEAD,ROI_MASK_HEAD}.NORM.
    # It has to divide the channels of each of them. 32 is the paper's default and what all
    # published GN weights were trained with (table 3: 64 to 2 groups cost at most 0.6% top-1).
    _C.MODEL.GN.NUM_GROUPS = 32

    # Channels of a group, in place of a count: 0 (default) uses NUM_GROUPS; 16 is the best fixed
    # number in table 3. Useful where layers differ in width and 32 does not divide them all.
    _C.MODEL.GN.CHANNELS_PER_GROUP = 0

    # Added to the variance. 1e-5 is the paper's and that of all published GN weights.
    _C.MODEL.GN.EPS = 1e-5

    # Start the last norm's scale of each residual branch at 0, so that a block starts as the
    # identity. The paper does so when it trains on ImageNet (section 4.1). False (default): a
    # detector starts from pre-trained norms, and the paper's from-scratch models start at 1.
    _C.MODEL.GN.ZERO_INIT_RESIDUAL = False

    # Weight Standardization (arXiv:1903.10520): convolve with (w - mean) / (std + 1e-5),
    # mean and std of each filter of w. It is for every convolution of backbone, FPN, box and mask
    # head that a norm follows; the others stay plain. Weights that were pre-trained with it need
    # it, and others must not have it. False (default): the Group Normalization paper has none.
    _C.MODEL.GN.WEIGHT_STANDARDIZATION = False

    # What training keeps for backward in the parts with a GN; results are the same in all three.
    # "standard" (default): what PyTorch keeps by itself, 1.7 to 1.9 times as much as with
    # FrozenBN. "lean": the outputs of norms are made again: 0.84 to 0.95 times FrozenBN's, and up
    # to 5% more time than standard (13% in bfloat16 with channels_last). "minimal": blocks, FPN and
    # heads keep their inputs alone and run twice: 0.31 to 0.44 times, up to a third more time.
    # FrozenBN parts obey it too; unfrozen BN never.
    # `gn-det estimate` tells which one fits; docs/performance.md has measurements.
    _C.MODEL.GN.MEMORY = "standard"

    # Allow random layers to stay frozen: MODEL.WEIGHTS "" with MODEL.BACKBONE.FREEZE_AT > 0 or
    # with FrozenBN, and FrozenBN in FPN or heads with weights of a backbone, are refused otherwise,
    # since they train without an error and lose AP. False (default); True where it is meant.
    _C.MODEL.GN.ALLOW_FROZEN_RANDOM = False

    # Keep features and convolutions of our backbones, FPN and heads in PyTorch's channels_last
    # layout. It pays on CPUs with AMX, most in bfloat16; with images as small as the demo's it
    # costs time. On a GPU it was not measured. Results differ by rounding, weights go both ways.
    # False (default): as Detectron2.
    _C.MODEL.CHANNELS_LAST = False

    _C.MODEL.VGG = type(cfg)()

    # Convolutions: 11, 13, 16 or 19 with the three fully connected layers that are left out here.
    # For MODEL.BACKBONE.NAME build_gn_vgg_backbone and build_gn_vgg_fpn_backbone.
    _C.MODEL.VGG.DEPTH = 16

    # The norm after every convolution: "", BN, SyncBN, FrozenBN, GN, LN or IN. "" (default) is VGG
    # as it was published; its convolutions then have a bias.
    _C.MODEL.VGG.NORM = ""

    # Channels of vgg1; vgg2 to vgg5 have 2, 4, 8 and 8 times as many. 64 is VGG's own.
    _C.MODEL.VGG.BASE_CHANNELS = 64

    # Feature maps: vgg1 to vgg5 (stride 1 to 16, before they are pooled) and pool5 (stride 32).
    # ["vgg5"] for a backbone of one feature map; [vgg3, vgg4, vgg5, pool5] for an FPN from p2 on.
    _C.MODEL.VGG.OUT_FEATURES = ["vgg5"]

    _C.MODEL.CLASSIFIER = type(cfg)()

    # Classes of MODEL.META_ARCHITECTURE ImageClassifier. 1000 is ImageNet's.
    _C.MODEL.CLASSIFIER.NUM_CLASSES = 1000

    # Pre-training of backbones by gn-det pretrain. The defaults are those of section 4.1.
    _C.PRETRAIN = type(cfg)()

    # What is trained on; val is what is evaluated on.
    # "image_folder" (default): the images in folders of PRETRAIN.ROOT.
    # "fashion_mnist": 60,000 and 10,000 images of ten kinds of clothes, grey, 28x28. Its four files
    # are looked for in PRETRAIN.ROOT, then where Debian's package dataset-fashion-mnist has them.
    # "photo_digit_crops": the objects of the embedded detection dataset, cut out; ten digits.
    # "moving_digits": 4,000 and 1,000 clips of 8 frames, nine ways of moving; for video networks
    # (MODEL.BACKBONE.NAME build_gn_inflated_resnet_backbone).
    _C.PRETRAIN.DATASET = "image_folder"

    # The folder that has train/CLASS/IMAGE and val/CLASS/IMAGE. One that is not found from the
    # working directory is looked for below $DETECTRON2_DATASETS, or else below ./datasets.
    _C.PRETRAIN.ROOT = "imagenet"

    # Train on this many images alone: the first of a shuffled order that is always the same, for
    # studies in minutes. 0 (default): all. Epochs are counted in these images.
    _C.PRETRAIN.TRAIN_IMAGES = 0

    # The same for evaluation.
    _C.PRETRAIN.VAL_IMAGES = 0

    # The schedule in epochs: the length, and when the learning rate is multiplied by SOLVER.GAMMA.
    # SOLVER.MAX_ITER and STEPS follow from them and from the number of images, and are refused
    # where they are set; so are TEST.EVAL_PERIOD and SOLVER.BEST_METRIC.
    _C.PRETRAIN.EPOCHS = 100
    _C.PRETRAIN.STEPS = (30, 60, 90)

    # Epochs from one evaluation to the next, and from one checkpoint to the next where
    # SOLVER.CHECKPOINT_PERIOD, in iterations, is not set.
    _C.PRETRAIN.EVAL_PERIOD = 1

    # The batch that SOLVER.BASE_LR is for. With another SOLVER.IMS_PER_BATCH the learning rate is
    # BASE_LR * IMS_PER_BATCH / REFERENCE_BATCH (the linear rule of Goyal et al. 2017).
    _C.PRETRAIN.REFERENCE_BATCH = 256

    # Side of the square that the network sees. In evaluation of an image_folder it is cut out of
    # the middle of an image whose shorter side was made RESIZE (0, the default: 256/224 times CROP,
    # the paper's share); images of the other sources are made CROP pixels wide and high, and RESIZE
    # does not apply to them.
    _C.PRETRAIN.CROP = 224
    _C.PRETRAIN.RESIZE = 0

    # Area of a training crop as a share of the image's. This and the next two keys are for
    # image_folder; the other sources have a modest augmentation of their own
    # (docs/pretraining.md).
    _C.PRETRAIN.CROP_AREA = (0.08, 1.0)

    # Brightness, contrast and saturation are each changed by up to this share; 0 changes nothing.
    _C.PRETRAIN.COLOR_JITTER = 0.4

    # Standard deviation of the noise along the principal components of ImageNet's colours
    # (Krizhevsky et al. 2012); 0 for none.
    _C.PRETRAIN.LIGHTING = 0.1

    # At each evaluation, write the 1st, 20th, 80th and 99th percentile of the output of the
    # backbone's last convolution, before its norm and ReLU: the paper's figure 6.
    _C.PRETRAIN.RESPONSE_PERCENTILES = False

    # Datasets of one's own in COCO's format, to be named in DATASETS.TRAIN and TEST:
    # [[name, json file, folder of images], ...], with paths from the working directory. They are
    # registered with Detectron2 when a tool reads the config, or by
    # gn_det.data.register_datasets(cfg). () (default): none, as with Detectron2's own keys.
    _C.DATASETS.REGISTER = ()

    # Element type of mixed precision where SOLVER.AMP.ENABLED: "float16" (with a loss scaler, GPU
    # only) or "bfloat16" (no scaler; GPU, and CPU where it pays with AMX or AVX512-BF16).
    # The default is Detectron2's own choice.
    _C.SOLVER.AMP.DTYPE = "float16"

    # The gradient's norm over all parameters is clipped at this value; 0 (default) clips nothing.
    # SOLVER.CLIP_GRADIENTS of Detectron2 clips each parameter by itself, which changes the
    # direction of the step. Keeps short warm-ups from scratch from exploding.
    _C.SOLVER.CLIP_GLOBAL_NORM = 0.0

    # Decay of an exponential moving average of the weights, in [0, 1): 0.9998, say, averages over
    # the last 1 / (1 - 0.9998) = 5000 steps or so. Evaluations and the "model" in checkpoints are
    # then the average's; checkpoints have the weights themselves as well, to go on from. It takes 4
    # bytes a trained parameter. 0.0 (default): no average, as the paper and Detectron2.
    _C.SOLVER.EMA_DECAY = 0.0

    # Images in one forward pass of one process. 0 (default): all of its share of IMS_PER_BATCH at
    # once, as Detectron2. 1 trains the paper's 16-image schedule on one small GPU: 16 passes
    # accumulate their gradients, and lr and iterations stay as they are. With GN the result is that
    # of 16 GPUs with one image each (docs/scaling.md); with unfrozen BN it is not.
    _C.SOLVER.IMS_PER_STEP = 0

    # Checkpoints of the past that are kept, besides the final and the best one. 0 (default) keeps
    # all, as Detectron2; R50 with its optimizer is 350 MB each.
    _C.SOLVER.KEEP_CHECKPOINTS = 0

    # The best checkpoint, model_best.pth, has the highest value of this so far. It is looked at
    # after each evaluation of TEST.EVAL_PERIOD. "" keeps none. Default: box AP.
    _C.SOLVER.BEST_METRIC = "bbox/AP"

    # What a run does that cannot save a checkpoint (disk full, folder read-only): "stop" (default),
    # or "continue" without it, to try again at the next one. The last good one is kept in any case.
    _C.SOLVER.ON_SAVE_ERROR = "stop"
