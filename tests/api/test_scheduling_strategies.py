"""Strategies and labels on one node: what runs, what fails at once, what waits."""

import importlib

import pytest
from under_test import NAME, exceptions, ray

strategies = importlib.import_module(f"{NAME}.util.scheduling_strategies")
DoesNotExist, Exists, In, NotIn = strategies.DoesNotExist, strategies.Exists, strategies.In, strategies.NotIn
NodeAffinitySchedulingStrategy = strategies.NodeAffinitySchedulingStrategy
NodeLabelSchedulingStrategy = strategies.NodeLabelSchedulingStrategy

ELSEWHERE = "ab" * 28


@pytest.fixture(scope="module", autouse=True)
def labelled():
    ray.init(num_cpus=2, labels={"zone": "a", "gpu-family": "none"})
    yield
    ray.shutdown()


@ray.remote
def one():
    return 1


@ray.remote
class Actor:
    def one(self):
        return 1


def both(**options):
    """A reference of a task and one of an actor's call, with these options."""
    return one.options(**options).remote(), Actor.options(**options).remote().one.remote()


def test_affinity_to_this_node():
    here = ray.get_runtime_context().get_node_id()
    for soft in (False, True):
        strategy = NodeAffinitySchedulingStrategy(here, soft=soft)
        assert ray.get(list(both(scheduling_strategy=strategy)), timeout=60) == [1, 1]


def test_hard_affinity_to_an_unknown_node_fails():
    task, call = both(scheduling_strategy=NodeAffinitySchedulingStrategy(ELSEWHERE, soft=False))
    with pytest.raises(exceptions.TaskUnschedulableError, match=ELSEWHERE):
        ray.get(task, timeout=60)
    with pytest.raises(exceptions.ActorUnschedulableError, match=ELSEWHERE):
        ray.get(call, timeout=60)


def test_soft_affinity_to_an_unknown_node_runs_here():
    strategy = NodeAffinitySchedulingStrategy(ELSEWHERE, soft=True)
    assert ray.get(list(both(scheduling_strategy=strategy)), timeout=60) == [1, 1]


@pytest.mark.parametrize("strategy", [None, "DEFAULT", "SPREAD"])
def test_by_name(strategy):
    assert ray.get(list(both(scheduling_strategy=strategy)), timeout=60) == [1, 1]


@pytest.mark.parametrize(
    ("hard", "soft"),
    [
        ({"zone": In("a", "b")}, None),
        ({"zone": NotIn("b"), "absent": DoesNotExist()}, None),
        ({"zone": Exists()}, {"zone": In("c")}),
        (None, {"zone": In("c")}),
    ],
)
def test_labels_that_are_met(hard, soft):
    strategy = NodeLabelSchedulingStrategy(hard, soft=soft)
    assert ray.get(list(both(scheduling_strategy=strategy)), timeout=60) == [1, 1]


@pytest.mark.parametrize(
    "options",
    [
        {"scheduling_strategy": NodeLabelSchedulingStrategy({"zone": In("c")})},
        {"label_selector": {"zone": "d"}},
        {"label_selector": {"zone": "!a"}, "fallback_strategy": [{"label_selector": {"zone": "in(b,c)"}}]},
    ],
)
def test_labels_that_no_node_has_are_waited_for_and_told(options, capfd):
    task, call = both(**options)
    ready, _ = ray.wait([task, call], timeout=1)
    assert not ready
    told = ""
    for _ in range(100):
        told += capfd.readouterr().err
        if told.count("can't be placed") >= 2:
            break
        ray.wait([task], timeout=0.1)
    assert "zone" in told and told.count("can't be placed") >= 2, told
    ray.cancel(task)


@pytest.mark.parametrize(
    "options",
    [
        {"label_selector": {"zone": "a"}},
        {"label_selector": {"zone": "in(b,a)", "gpu-family": "!h100"}},
        {"label_selector": {"zone": "c"}, "fallback_strategy": [{"label_selector": {"zone": "!in(b,c)"}}]},
    ],
)
def test_selectors_that_are_met(options):
    assert ray.get(list(both(**options)), timeout=60) == [1, 1]


def test_the_labels_of_the_node_are_told():
    context = ray.get_runtime_context()
    labels = context.get_node_labels()
    assert (labels["zone"], labels["ray.io/node-id"]) == ("a", context.get_node_id())
    assert ray.nodes()[0]["Labels"]["zone"] == "a"
    here = {"ray.io/node-id": context.get_node_id()}
    assert ray.get(one.options(label_selector=here).remote(), timeout=60) == 1
    assert context.get_accelerator_ids() == {"GPU": []}


def test_misuse_fails_at_the_call():
    with pytest.raises(ValueError, match="Invalid node_id"):
        NodeAffinitySchedulingStrategy("xyz", soft=False)
    with pytest.raises(ValueError, match="soft"):
        NodeAffinitySchedulingStrategy(ELSEWHERE, soft=False, _spill_on_unavailable=True)
    with pytest.raises(ValueError, match="both be empty"):
        NodeLabelSchedulingStrategy({}, soft=None)
    with pytest.raises(ValueError, match=r"In\(\)"):
        NodeLabelSchedulingStrategy({"zone": "a"})
    with pytest.raises(TypeError, match="scheduling_strategy"):
        one.options(scheduling_strategy=1)
    with pytest.raises(ValueError, match="Invalid scheduling_strategy"):
        one.options(scheduling_strategy="NEAR").remote()
    with pytest.raises(ValueError, match="label"):
        one.options(label_selector={"zone": "a b"})
    with pytest.raises(ValueError, match="fallback_strategy"):
        one.options(fallback_strategy=[{}])
