"""Laws that any queueing network keeps, and what the simulation copies from modules that it does not import."""

import random
import re
import statistics
from dataclasses import replace
from pathlib import Path

import pytest
import simpy

from benchmarks.simulation import bulk_workers, light_workers
from benchmarks.simulation import site as site_module
from benchmarks.simulation.annotators import Work, recorded_lead_times, working_shares
from benchmarks.simulation.costs import SOURCES, Costs, from_docs
from benchmarks.simulation.one_machine import OneMachine, simulate
from benchmarks.simulation.replica import SimulatedReplica, adapter_folders
from benchmarks.simulation.running import run
from benchmarks.simulation.site import Machines, SimulatedProject, Site
from benchmarks.simulation.stations import Flushes, Station, Steps
from lorabel.inference.messages import Priority
from lorabel.settings import Settings

ROOT = Path(__file__).parents[2]
# Everything that could wait has enough servers, so that only what a test is about limits the load.
PLENTY = Machines(replicas=4, ray_http_proxies=4, backends=4, light_workers=8, bulk_workers=8, adapters_held=50)
COSTS = Costs(batch_s=0.005, row_s=0.001, cold_adapter_s=0.01, label_studio_s=0.01)


def test_the_mean_wait_of_random_arrivals_at_one_server_is_that_of_the_formula() -> None:
    """M/D/1: rho / (2 (1 - rho)) service times (Pollaczek and Khinchine)."""
    env, chance, waits = simpy.Environment(), random.Random(1), []
    station = Station(env)

    def customer() -> Steps:
        arrived_s = env.now
        yield station.visit(1.0)
        waits.append(env.now - arrived_s - 1.0)

    def arrivals() -> Steps:
        for _ in range(30_000):
            yield env.timeout(chance.expovariate(0.6))
            env.process(customer())

    env.process(arrivals())
    env.run()
    assert statistics.mean(waits) == pytest.approx(0.6 / (2 * 0.4), rel=0.05)
    assert len(waits) == station.visits == 30_000, "none is lost"
    assert station.busy_s / env.now == pytest.approx(0.6, rel=0.02), "the use is the rate times the service time"


def test_all_that_wait_for_the_disk_share_a_flush_that_begins_after_them() -> None:
    env, ends = simpy.Environment(), []
    flushes = Flushes(env, 1.0)

    def commit(at_s: float) -> Steps:
        yield env.timeout(at_s)
        yield flushes.commit()
        ends.append(env.now)

    for at_s in (0.0, 0.2, 0.9):
        env.process(commit(at_s))
    env.run()
    assert ends == [1.0, 2.0, 2.0] and flushes.flushes == 2


@pytest.mark.parametrize("clients", [1, 64])
def test_clients_without_pauses_get_what_the_machine_can_do_and_wait_by_littles_law(clients: int) -> None:
    rate, p50_ms = simulate(OneMachine(0.01, 0.0, 0.0, 0.0), clients, 1, seconds=20.0)
    assert rate == pytest.approx(100.0, rel=0.05)
    assert p50_ms == pytest.approx(1000 * clients / 100, rel=0.3)


def test_twice_the_rows_take_twice_the_time_of_a_device_and_people_come_first() -> None:
    env, done = simpy.Environment(), []
    with adapter_folders() as folders:
        replica = SimulatedReplica(env, "a", COSTS, folders, adapters_held=2, cores=1000)

        def ask(name: str, tasks: range, priority: Priority) -> Steps:
            yield from replica.answer(1, None, tasks, priority)
            done.append(name)

        env.process(ask("ahead", range(640), Priority.LOOKAHEAD))
        env.process(ask("person", range(1000, 1001), Priority.INTERACTIVE))
        env.run()
    assert done == ["person", "ahead"]
    assert replica.rows == 641 and replica.device_busy_s == pytest.approx(0.641 + 0.005 * replica.batches)


def test_the_real_bank_evicts_the_adapter_that_was_used_longest_ago() -> None:
    with adapter_folders() as folders:
        replica = SimulatedReplica(simpy.Environment(), "a", COSTS, folders, adapters_held=2)
        loaded = [replica.load(name) for name in ("p1.v1/a", "p2.v1/a", "p1.v1/a", "p3.v1/a", "p2.v1/a")]
    assert loaded == [False, False, True, False, False]
    assert replica.bank.names == ["p3.v1/a", "p2.v1/a"]


def test_twice_the_annotators_open_twice_the_tasks_while_nothing_is_full_and_none_is_lost() -> None:
    work = Work(projects=20, task_s=2.0)
    few, many = (run(work, PLENTY, COSTS, at_work=at_work, seconds=10, warm_up_s=4) for at_work in (20, 40))
    assert many.tasks_per_second == pytest.approx(2 * few.tasks_per_second, rel=0.15)
    assert few.tasks_per_second == pytest.approx(20 / 2.0, rel=0.15), "annotators over the time of a task"
    assert many.rates["webhooks"] == pytest.approx(many.tasks_per_second, rel=0.15)
    assert 0 < many.use["GPU"] < 1 and many.predict_ms[0.5] <= many.predict_ms[0.99]


def test_the_part_that_has_too_much_to_do_is_named() -> None:
    work, slow_fits = Work(projects=20, task_s=2.0), COSTS.with_values({"fit_s": 3.0})
    found = run(work, PLENTY, slow_fits, at_work=40, seconds=10, warm_up_s=4)
    assert found.breaks_first == "light worker" and found.busiest["light worker"] > 0.9


@pytest.mark.parametrize("workers", [1, 4])
def test_light_workers_divide_the_projects_and_fit_each_change_once(workers: int) -> None:
    """With fits that are so slow that events of a project come during its fit."""
    work, machines = Work(projects=3, task_s=2.0), replace(PLENTY, light_workers=workers)
    found = run(work, machines, COSTS.with_values({"fit_s": 0.4}), at_work=20, seconds=10, warm_up_s=4)
    # A worker fits 2.5 times a second, one project at a time.
    assert found.rates["fits"] == pytest.approx(2.5 * min(workers, 3), rel=0.2)
    assert found.heads_p50_ms < 1500


def test_events_that_come_during_a_fit_are_fitted_afterwards() -> None:
    env = simpy.Environment()
    with adapter_folders() as folders:
        site = Site(env, PLENTY, COSTS.with_values({"fit_s": 3.0}), folders, seed=1)
        project = SimulatedProject(1, None)
        for at_s, task in ((0.0, 1), (2.0, 2)):
            env.run(until=at_s + 1e-9)
            site.light.note_event(project, task)
            site.light.enqueue()
        env.run(until=20.0)
    assert (site.light.fits, site.light.due, len(site.light.fits_s.values)) == (2, 0, 2)
    assert site.light.fits_s.values[0] == pytest.approx(3.0, abs=0.1)
    # The rest of the first, the pause of a worker that has left the project to another, and its own.
    assert 1.0 + 3.0 <= site.light.fits_s.values[1] < 1.0 + 0.8 + 3.0 + 0.1


def test_what_one_bulk_worker_has_predicted_no_other_asks_label_studio_for() -> None:
    """An annotator with a task a second: 8 tasks ahead, and the next job when 4 are left."""
    work = Work(projects=1, task_s=1.0)
    found = run(work, replace(PLENTY, backends=50), COSTS, at_work=1, seconds=60, warm_up_s=20)
    assert found.rates["Label Studio asked"] == pytest.approx(found.tasks_per_second / 4, rel=0.3)
    assert found.rates["look-ahead jobs"] == pytest.approx(found.rates["Label Studio asked"], rel=0.1)
    assert found.remembered_share > 0.95


def test_a_backend_loads_a_project_again_after_each_change_of_its_row() -> None:
    found = run(Work(projects=1, task_s=2.0), PLENTY, COSTS, at_work=4, seconds=20, warm_up_s=4)
    assert found.project_loads_share > 0.9


def test_working_hours_move_around_the_earth() -> None:
    shares = working_shares(9.0, 17.0, (0.0, 12.0))
    assert shares[8] == 0 and shares[9] == shares[16] == shares[21] == 0.5 and shares[5] == 0
    assert sum(shares) == 8.0, "each works eight hours a day"


def test_lead_times_are_those_of_the_recordings() -> None:
    lead_times = recorded_lead_times()
    assert len(lead_times) >= 15 and min(lead_times) >= 1.0 and max(lead_times) < 60.0


def test_a_cost_that_does_not_exist_is_refused_and_each_source_is_of_a_cost() -> None:
    with pytest.raises(ValueError, match="there is no cost 'gpu_s'"):
        from_docs().with_values({"gpu_s": 1.0})
    assert set(SOURCES) <= set(Costs.__dataclass_fields__)


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("MAX_ONGOING", "model_server/ray_replica.py"),
        ("REPLICAS_PER_PROXY", "model_server/ray_serve.py"),
        ("MIN_PROXIES", "model_server/ray_serve.py"),
        ("MOST_KEPT", "backend/live_projects.py"),
        ("LOOKAHEAD_PAUSE_S", "lorabel/database/jobs.py"),
        ("KEPT_S", "lorabel/database/predicted_tasks.py"),
        ("COLLECT_LINGER_S", "lorabel/database/jobs.py"),
        ("LOOKS", "workers/collect.py"),
        ("MOST_AT_ONCE", "workers/feature_requests.py"),
    ],
)
def test_constants_are_those_of_the_modules_that_are_simulated(name: str, file: str) -> None:
    modules = [module for module in (site_module, bulk_workers, light_workers) if hasattr(module, name)]
    (value,) = re.findall(rf"^{name} = (\S+)", (ROOT / file).read_text(), re.MULTILINE)
    assert modules and {float(value)} == {getattr(module, name) for module in modules}


def test_pauses_and_the_default_of_a_setting_are_those_of_the_code() -> None:
    fitting = (ROOT / "workers" / "head_fitting.py").read_text()
    pauses = f"{light_workers.FIRST_PAUSE_S}, {light_workers.LONGEST_PAUSE_S}"
    assert f"FIRST_PAUSE_S, LONGEST_PAUSE_S = {pauses}" in fitting
    assert Settings.model_fields["ahead_tasks"].default == bulk_workers.AHEAD_TASKS
