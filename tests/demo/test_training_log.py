import os

from nnunet_cpr.demo.training_log import epochs_done, latest_values

EPOCH = """
2026-11-23 10:52:41.161192: Epoch {epoch}
2026-11-23 10:52:41.161192: Current learning rate: 0.01
2026-11-23 10:52:53.995998: train_loss {loss}
2026-11-23 10:52:53.996412: val_loss 0.3726
2026-11-23 10:52:53.996562: Pseudo dice [np.float32(0.3835), np.float32(0.6229)]
2026-11-23 10:52:53.996717: Epoch time: 12.84 s
"""


def test_no_log_yet(tmp_path):
    assert epochs_done(tmp_path) == 0
    assert latest_values(tmp_path) == ""


def test_an_epoch_counts_when_it_is_over(tmp_path):
    log = tmp_path / "training_log_1.txt"
    log.write_text(EPOCH.format(epoch=0, loss=0.64) + "2026: Epoch 1 \n")
    assert epochs_done(tmp_path) == 1
    log.write_text(EPOCH.format(epoch=0, loss=0.64) + EPOCH.format(epoch=1, loss=-0.25))
    assert epochs_done(tmp_path) == 2
    assert latest_values(tmp_path) == "loss -0.25, pseudo Dice 0.38 / 0.62"


def test_a_resumed_training_is_read_from_its_newest_log(tmp_path):
    for age, (name, epoch) in enumerate([("training_log_2.txt", 7), ("training_log_10.txt", 3)]):
        (tmp_path / name).write_text(EPOCH.format(epoch=epoch, loss=0))
        os.utime(tmp_path / name, (age, age))
    assert epochs_done(tmp_path) == 4
