"""Kills: fits with a checkpoint_dir that are ended by SIGKILL at random moments, then run to their end.

Every fit is a process of its own, forked from one that has imported what it needs. Each is killed at a random
moment of its training, and done again with the same folder; its weights are compared, bit by bit, with those
of a fit that nobody killed.
"""

import argparse
import contextlib
import hashlib
import json
import multiprocessing
import os
import signal
import tempfile
import time
import traceback
from pathlib import Path

import numpy as np
from harness import Row, add_options, describe, measure, settings_of
from photographs import crops
from skorch.callbacks import Callback
from timing import in_fresh_process

from sklearn_simclr import SimCLRTransformer
from sklearn_simclr.training import checkpoint as _checkpoint

# Seconds.
_PAUSE = 0.02


class Begun(Callback):
    """Says that the training begins; makes steps longer, so that there are moments to be killed in."""

    def __init__(self, connection):
        self.connection = connection

    def on_train_begin(self, net, **kwargs):
        self.connection.send("begun")

    def on_batch_end(self, net, **kwargs):
        time.sleep(_PAUSE)


def train(connection, folder, images, epochs):
    """Fit with a checkpoint in a folder; send a word when training begins, and the digest of the weights."""
    # After every step, not every minute: kills fall into epochs and into the writing, too.
    _checkpoint._INTERVAL, _checkpoint._SHARE = 0.0, float("inf")
    simclr = SimCLRTransformer(
        max_epochs=epochs, batch_size=16, projection_dim=16, device="cpu",
        checkpoint_dir=folder, callbacks=[Begun(connection)], random_state=0,
    ).fit(images)  # fmt: skip
    digest = hashlib.sha256()
    for module in (simclr.encoder_, simclr.projector_):
        for value in module.state_dict().values():
            digest.update(value.numpy().tobytes())
    digest.update(json.dumps(simclr.loss_curve_).encode())
    connection.send(digest.hexdigest())


def start(folder, images, epochs):
    """Return the number of a process that trains, and what it says when training begins and when it ends."""
    receiving, sending = multiprocessing.Pipe(duplex=False)
    # Not by multiprocessing: its workers give each other what they have trained.
    number = os.fork()
    if number == 0:
        try:
            train(sending, folder, images, epochs)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(0)
    # With the other end open here, the death of the process would not be noticed.
    sending.close()
    return number, receiving


def wait(number, receiving):
    """Return what a process says last, and the signal that ended it, or 0."""
    said = None
    with contextlib.suppress(EOFError):
        while True:
            said = receiving.recv()
    receiving.close()
    _, status = os.waitpid(number, 0)
    return said, os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0


def count(kills, epochs):
    """Kill fits; return how many kills fell into a training and how many fits ended with the same bits."""
    images = crops(64, 16)
    generator = np.random.default_rng(0)
    landed, equal = 0, 0
    with tempfile.TemporaryDirectory() as folder:
        number, receiving = start(Path(folder, "whole"), images, epochs)
        receiving.recv()
        begun = time.perf_counter()
        expected, _ = wait(number, receiving)
        duration = time.perf_counter() - begun
        for k in range(kills):
            place = Path(folder, str(k))
            number, receiving = start(place, images, epochs)
            receiving.recv()
            time.sleep(generator.uniform(0, 0.9 * duration))
            os.kill(number, signal.SIGKILL)
            landed += wait(number, receiving)[1] == signal.SIGKILL
            digest, _ = wait(*start(place, images, epochs))
            equal += digest is not None and digest == expected
    return {"landed": landed, "equal": equal, "duration": duration}


def run(settings):
    """Return the row: the part of the fits that ended with the bits of the one that was not killed."""
    kills, epochs = (3, 3) if settings.quick else (20, 10)
    # Where torch has computed with threads already, what is forked can wait for them forever.
    found = in_fresh_process("kill", "count", kills=kills, epochs=epochs)
    equal = found["equal"]
    print(f"kill: {found['landed']} of {kills} kills fell into a training of {found['duration']:.1f} s")
    return [
        Row(
            "kill", "killed fits that go on to equal bits", "killed fits", "fits",
            float(equal), float(kills), equal / kills, target=">= 1",
        )
    ]  # fmt: skip


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_options(parser)
    for line in describe(measure(run, settings_of(parser.parse_args()))):
        print(line)
