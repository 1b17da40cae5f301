"""NPU metrics: npu-exporter's names and labels, nothing for what is not known; a dashboard asks for what exists."""

from __future__ import annotations

import csv
import json
import os
import re
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
from tests.fakes import ascend_tools, machine

from daulat.core.accelerator import Accelerator, Ecc
from daulat.fleet import npu_metrics
from daulat.fleet.inventory import Inventory, together
from daulat.fleet.outputs import capture
from daulat.gateway import metrics
from daulat.processes.watch import Watch

ROOT = Path(__file__).parents[3]
FACTS = Path(os.environ.get("DAULAT_FACTS") or ROOT.parent / "shared/facts")
DASHBOARD = json.loads((ROOT / "deploy/grafana/accelerators.json").read_text())


def found(*faults: str) -> Inventory:
    """An A3 node, of which two dies are looked at closely."""
    a3 = machine.describe("a3", faults)
    texts = ["$ npu-smi info", ascend_tools.info(a3)]
    for die in (2, 3):
        asked = ("ecc", "health") if die == 3 else ("ecc",)
        for what in asked:
            words = f"info -t {what} -i 1 -c {die - 2}"
            texts += [f"$ npu-smi {words}", ascend_tools.npu_smi(a3, words.split())[0]]
        for what in ("-link", "-ip", "-net_health", "-speed", "-stat", "-optical"):
            texts += [f"$ hccn_tool -i {die} {what} -g", ascend_tools.hccn_tool(a3, ["-i", str(die), what, "-g"])[0]]
    return together(capture.read("\n".join(texts)))


def labels(number: int, bus: str) -> str:
    who = f'id="{number}",model_name="Ascend 910",vdie_id="",pcie_bus_info="{bus}"'
    return f'{who},namespace="",pod_name="",container_name=""'


def test_a_machine_has_its_samples_under_the_exporters_names_labels_and_units() -> None:
    samples = npu_metrics.samples(found("ecc:3", "process-stuck:2", "link-down:2"), "1.2")
    two, three = labels(2, "0000:99:00.0"), labels(3, "0000:9B:00.0")
    assert samples["machine_npu_nums"] == {"": 16}
    assert samples["machine_card_nums"] == {"": 8}
    assert (samples["machine_healthy_npu_nums"][""], samples["machine_unhealthy_npu_nums"][""]) == (15, 1)
    assert samples["npu_chip_info_health_status"][three] == 0
    assert samples["npu_chip_info_hbm_total_memory"][two] == 65536
    assert samples["npu_chip_info_hbm_used_memory"][two] == 3402 + 57344
    assert samples["npu_chip_info_power"][two] == 174.0
    assert samples["npu_chip_info_hbm_ecc_double_bit_error_cnt"][three] == 3
    assert samples["npu_chip_info_error_code"] == {three: 0x80E01801}
    assert samples["npu_chip_info_link_status"] == {two: 0, three: 1}
    assert samples["npu_chip_info_network_status"] == {two: 0, three: 1}
    assert samples["npu_chip_link_speed"] == {three: 200_000}
    assert samples["npu_chip_optical_tx_power_0"][two] == 1.4035
    assert samples["npu_chip_info_process_info"] == {f'{two},process_id="31337",container_id=""': 57344}
    assert samples["node_base_info"] == {'exporterVersion="daulat-1.2",driverVersion="25.5.1"': 1}
    assert two.replace("model_name", "name") in samples["npu_chip_info_name"]


def test_what_is_not_known_has_no_sample() -> None:
    samples = npu_metrics.samples(found(), "1.2")
    assert labels(3, "0000:9B:00.0") not in samples["npu_chip_info_power"], "the second die has no power of its own"
    assert "npu_chip_info_hbm_temperature" not in samples
    assert "npu_chip_info_error_code" not in samples


def test_memory_that_is_ddr_has_other_names() -> None:
    one = Accelerator("ascend", "Ascend 310P3", physical_id=1, memory_kind="DDR", memory_total=2**30, memory_used=2**20)
    samples = npu_metrics.samples(Inventory((one,), {}, {}, ()), "1.2")
    assert list(samples["npu_chip_info_total_memory"].values()) == [1024]
    assert "npu_chip_info_hbm_total_memory" not in samples
    assert samples["machine_unknown_npu_nums"] == {"": 1}


def test_a_machine_without_npus_has_no_samples() -> None:
    assert npu_metrics.samples(Inventory((Accelerator("nvidia"), Accelerator("cpu")), {}, {}, ()), "1.2") == {}


def test_the_page_has_a_type_and_one_line_a_sample_and_names_cannot_break_out_of_their_quotes() -> None:
    one = Accelerator("ascend", 'Ascend "910"\n\\', physical_id=1, temperature=39.0)
    watch = Watch(lambda: Inventory((one,), {}, {}, ()))
    assert watch.look()
    assert "# TYPE npu_chip_info_temperature gauge" in watch.text
    line = next(line for line in watch.text.splitlines() if line.startswith("npu_chip_info_temperature{"))
    assert line.startswith('npu_chip_info_temperature{id="1",model_name="Ascend \\"910\\"\\n\\\\",')
    assert line.endswith("} 39")
    for sample in watch.text.splitlines():
        assert re.fullmatch(r"# (HELP|TYPE) .*|[a-z0-9_]+(\{.*\})? [-0-9.e+]+", sample), sample


def test_the_watch_stops_looking_where_there_is_nothing_and_goes_on_after_a_fault() -> None:
    assert not Watch(lambda: Inventory((), {}, {}, ())).look()

    def broken() -> Inventory:
        raise OSError("no more processes")

    assert Watch(broken).look()


def test_every_sample_is_described() -> None:
    samples = npu_metrics.samples(found("ecc:3", "process-stuck:2"), "1.2")
    assert set(samples) <= set(npu_metrics.HELP)


@pytest.mark.skipif(not FACTS.is_dir(), reason="the exporter's list of metrics is not at hand (DAULAT_FACTS)")
def test_every_name_is_one_of_the_exporters() -> None:
    rows = list(csv.DictReader((FACTS / "npu_exporter_metrics.csv").read_text().splitlines()))
    listed = " ".join(row["metric"] for row in rows)
    ours = {name for name in npu_metrics.HELP if not re.search(r"_[0-9]$", name)}
    in_its_source_only = {"machine_healthy_npu_nums", "machine_unhealthy_npu_nums", "machine_unknown_npu_nums"}
    assert {name for name in ours if name not in listed} == in_its_source_only


def left_out() -> list[str]:
    """Patterns in the first column of the documentation's table of what is not exported."""
    page = (ROOT / "docs/accelerators.md").read_text()
    table = page[page.index("| not exported |") :].split("\n\n")[0]
    return [name for row in table.splitlines()[2:] for name in re.findall(r"`([\w*]+)`", row.split("|")[1])]


def test_nothing_that_is_said_to_be_left_out_is_exported() -> None:
    assert left_out()
    assert {name for name in npu_metrics.HELP for pattern in left_out() if fnmatch(name, pattern)} == set()


@pytest.mark.skipif(not FACTS.is_dir(), reason="the exporter's list of metrics is not at hand (DAULAT_FACTS)")
def test_every_metric_of_the_exporter_is_exported_or_said_to_be_left_out() -> None:
    every = csv.DictReader((FACTS / "npu_exporter_metrics.csv").read_text().splitlines())
    rows = [row for row in every if not row["category"].startswith("Label ")]
    named = [name for row in rows for name in re.findall(r"\b(?:npu|container|vnpu|machine|node)_\w+", row["metric"])]
    theirs = {name.removesuffix("_X") + ("_1" if name.endswith("_X") else "") for name in named}
    missing = {name for name in theirs if name not in npu_metrics.HELP}
    told = {name for name in missing for pattern in left_out() if fnmatch(name, pattern)}
    assert missing == told, missing - told
    assert all(any(fnmatch(name, pattern) for name in missing) for pattern in left_out())


def test_frequency_voltage_ecc_and_the_vendors_own_share_of_the_hbm_are_exported() -> None:
    a3 = machine.describe("a3")
    words = "info -t common -i 1"
    texts = ["$ npu-smi info", ascend_tools.info(a3), f"$ npu-smi {words}", ascend_tools.npu_smi(a3, words.split())[0]]
    samples = npu_metrics.samples(together(capture.read("\n".join(texts))), "1.2")
    two = labels(2, "0000:99:00.0")
    assert samples["npu_chip_info_aicore_current_freq"][two] == 800
    assert samples["npu_chip_info_hbm_utilization"][two] == 5, "as npu-smi rounds it"
    one = Accelerator("ascend", physical_id=1, voltage=0.81, ecc=Ecc(enabled=True))
    samples = npu_metrics.samples(Inventory((one,), {}, {}, ()), "1.2")
    assert list(samples["npu_chip_info_voltage"].values()) == [0.81]
    assert list(samples["npu_chip_info_hbm_ecc_enable_flag"].values()) == [1]


def expressions(value: Any) -> list[str]:
    if isinstance(value, dict):
        mine = [value[key] for key in ("expr", "query") if isinstance(value.get(key), str)]
        return mine + [inner for item in value.values() for inner in expressions(item)]
    return [inner for item in value for inner in expressions(item)] if isinstance(value, list) else []


def test_every_metric_that_the_dashboard_asks_for_exists() -> None:
    known = {*npu_metrics.HELP, *metrics.HELP}
    asked = {
        name
        for text in expressions(DASHBOARD)
        for name in re.findall(r"\b(?:npu|machine|node|daulat|gen_ai)_\w+", text)
    }
    names = {name.removesuffix("_bucket") for name in asked} - {"gen_ai_token_type"}
    assert len(names) > 20
    assert names <= known, names - known


def test_the_dashboards_panels_are_numbered_and_have_a_query_each() -> None:
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    assert all(panel["type"] == "row" or panel["targets"] for panel in panels)
