"""Metrics of NPUs under the names, labels and units of mind-cluster's npu-exporter: its dashboards go on working.

After `component/npu-exporter/collector` of github.com/Ascend/mind-cluster (commit 22bb3d98): memory in MB, power in W,
link speed in Mb/s, health 1, 0 (not healthy) or -1 (not known). What is not known has no sample.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from daulat.core.accelerator import MIB, Accelerator
from daulat.fleet.inventory import Inventory

_COUNTERS: Final = {
    "mac_rx_mac_pause_num": "npu_chip_mac_rx_pause_num",
    "mac_tx_mac_pause_num": "npu_chip_mac_tx_pause_num",
    "mac_rx_pfc_pkt_num": "npu_chip_mac_rx_pfc_pkt_num",
    "mac_tx_pfc_pkt_num": "npu_chip_mac_tx_pfc_pkt_num",
    "mac_rx_bad_pkt_num": "npu_chip_mac_rx_bad_pkt_num",
    "mac_tx_bad_pkt_num": "npu_chip_mac_tx_bad_pkt_num",
    "mac_rx_bad_oct_num": "npu_chip_mac_rx_bad_oct_num",
    "mac_tx_bad_oct_num": "npu_chip_mac_tx_bad_oct_num",
    "roce_rx_all_pkt_num": "npu_chip_roce_rx_all_pkt_num",
    "roce_tx_all_pkt_num": "npu_chip_roce_tx_all_pkt_num",
    "roce_rx_err_pkt_num": "npu_chip_roce_rx_err_pkt_num",
    "roce_tx_err_pkt_num": "npu_chip_roce_tx_err_pkt_num",
    "roce_rx_cnp_pkt_num": "npu_chip_roce_rx_cnp_pkt_num",
    "roce_tx_cnp_pkt_num": "npu_chip_roce_tx_cnp_pkt_num",
    "roce_new_pkt_rty_num": "npu_chip_roce_new_pkt_rty_num",
    "roce_unexpected_ack_num": "npu_chip_roce_unexpected_ack_num",
    "roce_out_of_order_num": "npu_chip_roce_out_of_order_num",
    "roce_verification_err_num": "npu_chip_roce_verification_err_num",
    "roce_qp_status_err_num": "npu_chip_roce_qp_status_err_num",
    "roce_ecn_db_num": "npu_chip_info_rx_ecn_num",
    "mac_rx_fcs_err_pkt_num": "npu_chip_info_rx_fcs_num",
}
_MOST_CODES: Final = 10  # npu-exporter's own limit for Prometheus
_LANES: Final = 4
_WORDS: Final = {
    "machine_npu_nums": "NPUs of this machine.",
    "machine_card_nums": "Cards or packages of this machine.",
    "machine_healthy_npu_nums": "NPUs that say they are well.",
    "machine_unhealthy_npu_nums": "NPUs that say they are not.",
    "machine_unknown_npu_nums": "NPUs whose health is not known.",
    "node_base_info": "Versions of this exporter and of the driver.",
    "npu_exporter_version_info": "Version of this exporter.",
    "npu_chip_info_name": "1, with the NPU's name.",
    "npu_chip_info_serial_number": "1, with the serial number.",
    "npu_chip_info_health_status": "1 healthy, 0 not, -1 not known.",
    "npu_chip_info_network_status": "1 if the network's health check succeeds, else 0.",
    "npu_chip_info_temperature": "Degrees Celsius.",
    "npu_chip_info_power": "Watts.",
    "npu_chip_info_voltage": "Volts.",
    "npu_chip_info_aicore_current_freq": "MHz that the AI cores run at now.",
    "npu_chip_info_utilization": "Percent of the AI cores' time.",
    "npu_chip_info_vector_utilization": "Percent of the vector cores' time.",
    "npu_chip_info_cube_utilization": "Percent of the cube cores' time.",
    "npu_chip_info_overall_utilization": "Percent, overall.",
    "npu_chip_info_used_memory": "DDR in use, MB.",
    "npu_chip_info_total_memory": "DDR in all, MB.",
    "npu_chip_info_hbm_used_memory": "HBM in use, MB.",
    "npu_chip_info_hbm_total_memory": "HBM in all, MB.",
    "npu_chip_info_hbm_utilization": "Percent of the HBM that is in use.",
    "npu_chip_info_hbm_temperature": "Degrees Celsius of the HBM.",
    "npu_chip_info_hbm_bandwidth_utilization": "Percent of the HBM's bandwidth.",
    "npu_chip_info_hbm_ecc_enable_flag": "1 if the HBM's errors are looked for, else 0.",
    "npu_chip_info_hbm_ecc_single_bit_error_cnt": "Single bit errors of the HBM.",
    "npu_chip_info_hbm_ecc_double_bit_error_cnt": "Double bit errors of the HBM.",
    "npu_chip_info_hbm_ecc_total_single_bit_error_cnt": "Single bit errors of the HBM, ever.",
    "npu_chip_info_hbm_ecc_total_double_bit_error_cnt": "Double bit errors of the HBM, ever.",
    "npu_chip_info_hbm_ecc_single_bit_isolated_pages_cnt": "Pages isolated for single bit errors.",
    "npu_chip_info_hbm_ecc_double_bit_isolated_pages_cnt": "Pages isolated for double bit errors.",
    "npu_chip_info_process_info": "Memory that a process holds, MB.",
    "npu_chip_info_process_info_num": "Processes that use the NPU.",
    "npu_chip_info_link_status": "1 if the port's link is up, 0 if it is down.",
    "npu_chip_link_speed": "Speed of the port, Mb/s.",
    "npu_chip_link_up_num": "How often the link came up.",
    "npu_chip_info_bandwidth_rx": "Received by the port, MB/s.",
    "npu_chip_info_bandwidth_tx": "Sent by the port, MB/s.",
    "npu_chip_optical_state": "1 if an optical module is present.",
    "npu_chip_optical_temp": "Degrees Celsius of the optical module.",
    "npu_chip_optical_vcc": "Voltage of the optical module, mV.",
}
_OPTICS: Final = {
    f"npu_chip_optical_{way}_power_{lane}": f"Optical {way} power of lane {lane}, mW."
    for way in ("tx", "rx")
    for lane in range(_LANES)
}
_CODES: Final = {
    f"npu_chip_info_error_code{end}": "An error code of the NPU."
    for end in ("", *(f"_{n}" for n in range(1, _MOST_CODES)))
}
_COUNTED: Final = {name: f"hccn_tool's {counter}." for counter, name in _COUNTERS.items()}
HELP: Final[Mapping[str, tuple[str, str]]] = {
    name: ("gauge", words) for name, words in {**_WORDS, **_OPTICS, **_CODES, **_COUNTED}.items()
}

Samples = dict[str, dict[str, float]]


def samples(found: Inventory, version: str) -> Samples:
    """Samples by metric: label text -> value. Empty where the machine has no NPU."""
    npus = [one for one in found.accelerators if one.vendor == "ascend"]
    if not npus:
        return {}
    states = [_health(one) for one in npus]
    driver = next((one.driver for one in npus if one.driver is not None), "")
    every: Samples = {
        "machine_npu_nums": {"": len(npus)},
        "machine_card_nums": {"": len({one.card for one in npus if one.card is not None})},
        "machine_healthy_npu_nums": {"": states.count(1)},
        "machine_unhealthy_npu_nums": {"": states.count(0)},
        "machine_unknown_npu_nums": {"": states.count(-1)},
        "node_base_info": {labelled(exporterVersion=f"daulat-{version}", driverVersion=driver): 1},
        "npu_exporter_version_info": {labelled(exporterVersion=f"daulat-{version}"): 1},
    }
    for one in npus:
        for name, labels, value in _of(one):
            every.setdefault(name, {})[labels] = value
    return every


def labelled(**values: str) -> str:
    """Prometheus' label text, without its braces."""
    escaped = {
        name: value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") for name, value in values.items()
    }
    return ",".join(f'{name}="{value}"' for name, value in escaped.items())


def _health(one: Accelerator) -> int:
    return -1 if one.health.state == "unknown" else int(one.health.state == "ok")


def _of(one: Accelerator) -> Iterator[tuple[str, str, float]]:
    number = next((n for n in (one.physical_id, one.logical_id, one.card) if n is not None), "")
    who = {"id": str(number), "model_name": one.product or "", "vdie_id": one.unique_id or ""}
    who |= {"pcie_bus_info": (one.pci or "").upper(), "namespace": "", "pod_name": "", "container_name": ""}
    card = labelled(**who)
    named = {("name" if name == "model_name" else name): value for name, value in who.items()}
    yield "npu_chip_info_name", labelled(**named), 1
    if one.serial is not None:
        yield "npu_chip_info_serial_number", labelled(**who, serial_number=one.serial), 1
    yield "npu_chip_info_health_status", card, _health(one)
    yield "npu_chip_info_process_info_num", card, len(one.processes)
    for user in one.processes:
        if user.memory is not None:
            labels = labelled(**who, process_id=str(user.pid), container_id="")
            yield "npu_chip_info_process_info", labels, user.memory / MIB
    for at, code in enumerate(one.health.codes[:_MOST_CODES]):
        yield f"npu_chip_info_error_code{f'_{at}' if at else ''}", card, int(code, 16)
    for name, value in (*_sensors(one), *_memory(one), *_port(one)):
        if value is not None:
            yield name, card, float(value)


def _sensors(one: Accelerator) -> Iterator[tuple[str, float | None]]:
    yield "npu_chip_info_temperature", one.temperature
    yield "npu_chip_info_power", one.power
    yield "npu_chip_info_voltage", one.voltage
    yield "npu_chip_info_aicore_current_freq", one.frequency
    yield "npu_chip_info_utilization", one.utilisation.core
    yield "npu_chip_info_vector_utilization", one.utilisation.vector
    yield "npu_chip_info_cube_utilization", one.utilisation.cube
    yield "npu_chip_info_overall_utilization", one.utilisation.overall


def _memory(one: Accelerator) -> Iterator[tuple[str, float | None]]:
    total = None if one.memory_total is None else one.memory_total / MIB
    used = None if one.memory_used is None else one.memory_used / MIB
    if one.memory_kind == "DDR":
        yield "npu_chip_info_total_memory", total
        yield "npu_chip_info_used_memory", used
        return
    yield "npu_chip_info_hbm_total_memory", total
    yield "npu_chip_info_hbm_used_memory", used
    share = None if used is None or not total else used * 100 / total
    yield "npu_chip_info_hbm_utilization", share if one.utilisation.memory is None else one.utilisation.memory
    yield "npu_chip_info_hbm_temperature", one.memory_temperature
    yield "npu_chip_info_hbm_bandwidth_utilization", one.utilisation.memory_bandwidth
    yield "npu_chip_info_hbm_ecc_enable_flag", one.ecc.enabled
    yield "npu_chip_info_hbm_ecc_single_bit_error_cnt", one.ecc.single_bit
    yield "npu_chip_info_hbm_ecc_double_bit_error_cnt", one.ecc.double_bit
    yield "npu_chip_info_hbm_ecc_total_single_bit_error_cnt", one.ecc.total_single_bit
    yield "npu_chip_info_hbm_ecc_total_double_bit_error_cnt", one.ecc.total_double_bit
    yield "npu_chip_info_hbm_ecc_single_bit_isolated_pages_cnt", one.ecc.single_bit_isolated_pages
    yield "npu_chip_info_hbm_ecc_double_bit_isolated_pages_cnt", one.ecc.double_bit_isolated_pages


def _port(one: Accelerator) -> Iterator[tuple[str, float | None]]:
    port = one.port
    if port.health is not None:
        yield "npu_chip_info_network_status", port.health.lower() in {"success", "init", "healthy"}
    if port.state is not None:
        yield "npu_chip_info_link_status", port.state == "up"
    if port.optical_present is not None:
        yield "npu_chip_optical_state", port.optical_present
    yield "npu_chip_link_speed", port.speed_mbps
    yield "npu_chip_link_up_num", port.link_ups
    yield "npu_chip_info_bandwidth_rx", port.rx_mb_s
    yield "npu_chip_info_bandwidth_tx", port.tx_mb_s
    optical = dict(port.optical)
    yield "npu_chip_optical_temp", optical.get("temperature")
    yield "npu_chip_optical_vcc", optical.get("vcc")
    for way in ("tx", "rx"):
        for lane in range(_LANES):
            yield f"npu_chip_optical_{way}_power_{lane}", optical.get(f"{way}power{lane}")
    for counter, value in port.counters:
        if counter in _COUNTERS:
            yield _COUNTERS[counter], value
