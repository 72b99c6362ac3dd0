from recipes import exit_status, pipeline, recipe  # first: it checks the arguments before torch is imported

# isort: split
from functools import partial

from fastai.learner import Learner
from torch.optim import SGD
from torch.optim.lr_scheduler import CosineAnnealingLR

from toolkit.command import run_script
from toolkit.data.augment import A, RandomResizedCrop  # A is albumentations
from toolkit.data.dataloaders import make_dataloaders
from toolkit.data.preprocess import resize_center_crop
from toolkit.data.readable import open_dataset
from toolkit.learner.accumulate import AccumulateGradients
from toolkit.learner.learner import make_learner
from toolkit.learner.schedule import Schedule
from toolkit.models.losses import make_loss
from toolkit.models.timm_model import make_model, normalization_of
from toolkit.options import Options


@recipe(arch="resnet50.a1_in1k", epochs=10, lr=0.02, bs=32)  # its defaults; all other options keep theirs
def learner(options: Options, dropout: float = 0.3) -> Learner:  # share of the features that the head drops
    "Fine-tune all layers by SGD, at a learning rate that falls along a cosine."
    dataset = open_dataset(options)
    loss, model = make_loss(options, dataset.counts), make_model(options, dataset.classes, dropout)
    train = [RandomResizedCrop(scale=(0.3, 1.0)), A.HorizontalFlip(p=0.5), A.ColorJitter(hue=0.05, p=0.8)]
    train += [A.OneOf([A.GaussianBlur(), A.MotionBlur()], p=0.2), A.CoarseDropout(p=0.3)]
    valid, normalize = resize_center_crop(options.image_size), normalization_of(model)
    dls = make_dataloaders(options, dataset, A.Compose(train), valid, normalize)
    cosine = Schedule(lambda optimizer, steps: CosineAnnealingLR(optimizer, T_max=steps))
    opt_func, cbs = partial(SGD, momentum=0.9, nesterov=True), [AccumulateGradients(options.accum), cosine]
    return make_learner(options, dls, model, loss, opt_func, cbs)


main = pipeline(learner)

if __name__ == "__main__":
    run_script(main, exit_status)
