import threading

import pytest
import torch

from sklearn_simclr.images.source import ImageSource
from sklearn_simclr.training import feed as _feed
from sklearn_simclr.training.feed import make_feed


@pytest.fixture
def source():
    pixels = torch.arange(40, dtype=torch.uint8).view(40, 1, 1, 1).expand(40, 3, 4, 4).contiguous()
    return ImageSource(pixels, (0.0, 255.0))


class File:
    """Stands for a file on a system that does not read ahead on request."""

    asks = False


class Recording:
    """A source that remembers in which thread its rows were taken, and how many."""

    file = File()

    def __init__(self, source):
        self.source, self.device, self.pixels = source, source.device, source.pixels
        self.threads, self.taken = set(), 0

    def __len__(self):
        return len(self.source)

    def take(self, index):
        self.threads.add(threading.current_thread())
        self.taken += 1
        return self.source.take(index)


ORDER = torch.randperm(40, generator=torch.Generator().manual_seed(0)).view(8, 5)


def values(feed, order=ORDER):
    return torch.stack([images[:, 0, 0, 0].long() for _, images in feed.batches(order)])


def test_resident_images_come_in_the_order_asked_for(source):
    assert torch.equal(values(make_feed(source, torch.device("cpu"))), ORDER)


def test_mapped_images_come_in_the_same_order_from_another_thread(source):
    recording = Recording(source)
    feed = make_feed(recording, torch.device("cpu"))
    assert torch.equal(values(feed), ORDER)
    assert recording.taken == len(ORDER)
    assert threading.main_thread() not in recording.threads


def test_the_thread_is_a_few_batches_ahead_and_ends_with_the_reader(source):
    recording = Recording(source)
    before = threading.active_count()
    batches = make_feed(recording, torch.device("cpu")).batches(ORDER)
    for _ in range(2):
        next(batches)
    batches.close()
    assert recording.taken <= 2 + _feed._AHEAD
    assert threading.active_count() == before


def test_what_the_system_reads_ahead_is_asked_for_two_batches_before(source):
    events = []

    class Asking(Recording):
        class file:
            asks = True

        def ask(self, index):
            events.append(("ask", index.tolist()))

        def take(self, index):
            events.append(("take", index.tolist()))
            return super().take(index)

    recording = Asking(source)
    assert torch.equal(values(make_feed(recording, torch.device("cpu"))), ORDER)
    assert recording.threads == {threading.main_thread()}
    rows = ORDER.tolist()
    assert [row for kind, row in events if kind == "take"] == rows
    assert [row for kind, row in events if kind == "ask"] == rows
    for k, row in enumerate(rows):
        before = events[: events.index(("take", row))]
        assert sum(kind == "ask" for kind, _ in before) == min(k + 3, len(rows))


def test_an_error_of_the_source_reaches_the_reader(source):
    recording = Recording(source)
    feed = make_feed(recording, torch.device("cpu"))
    with pytest.raises(IndexError):
        list(feed.batches(torch.tensor([[0, 1], [39, 40]])))


def test_index_and_images_belong_together(source):
    for index, images in make_feed(Recording(source), torch.device("cpu")).batches(ORDER):
        assert torch.equal(images[:, 0, 0, 0].long(), index)


@pytest.mark.gpu
def test_images_larger_than_the_device_are_streamed(source, monkeypatch):
    monkeypatch.setattr(_feed, "_RESIDENT_PART", 0.0)
    device = torch.device("cuda")
    feed = make_feed(source, device)
    order = ORDER.to(device)
    for index, images in feed.batches(order):
        assert images.device.type == "cuda"
        assert torch.equal(images[:, 0, 0, 0].long(), index)
