"""A fastai Learner and its parts: callbacks, schedules, devices and precision, several GPUs. It knows no run folder."""
