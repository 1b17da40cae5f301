/* A libdcmi.so with one A3 package (card 3, two dies and an MCU): the interface of DCMI, the answers of a test. */
#include <stdlib.h>
#include <stdio.h>
#include <string.h>

struct chip { unsigned char type[32], name[32], version[32]; unsigned cores; unsigned char npu[32]; };
struct pcie { unsigned vendor, subvendor, device, subdevice; int domain; unsigned bus, slot, function; unsigned char reserve[32]; };
struct ecc { int flag; unsigned single, twofold, all_single, all_double, single_pages, double_pages, next_single, next_double; };
struct hbm { unsigned long long size; unsigned freq; unsigned long long usage; int temp; unsigned bandwidth; };
struct multi { unsigned aic, aiv, aicore, npu, reserved[8]; };
struct die { unsigned words[5]; };
struct user { int pid; unsigned long memory; };

static int here(int card, int die) { return card == 3 && die >= 0 && die < 2; }

int dcmi_init(void) { const char *code = getenv("FAKE_DCMI_INIT"); return code ? atoi(code) : 0; }
int dcmi_get_card_list(int *count, int *cards, int most) { if (most < 1) return -1; *count = 1; cards[0] = 3; return 0; }
int dcmi_get_device_id_in_card(int card, int *most, int *mcu, int *cpu) {
    *most = getenv("FAKE_DCMI_BOARD") ? 1 : 3; *mcu = 2; *cpu = -1;
    return card == 3 ? 0 : -1;
}
int dcmi_get_device_type(int card, int die, int *type) { (void)card; *type = die == 2; return 0; }
int dcmi_get_device_chip_info_v2(int card, int die, struct chip *found) {
    if (!here(card, die)) return -1;
    memset(found, 0, sizeof *found);
    strcpy((char *)found->type, "Ascend");
    strcpy((char *)found->name, "910_9392");
    strcpy((char *)found->npu, "Ascend910_9392");
    found->cores = 24;
    return 0;
}
int dcmi_get_device_pcie_info_v2(int card, int die, struct pcie *found) {
    memset(found, 0, sizeof *found);
    found->bus = die ? 0x9f : 0x9d;
    return here(card, die) ? 0 : -1;
}
int dcmi_get_device_logic_id(int *logic, int card, int die) { *logic = card * 2 + die; return 0; }
int dcmi_get_device_phyid_from_logicid(unsigned logic, unsigned *physical) { *physical = logic; return 0; }
int dcmi_get_device_power_info(int card, int die, int *power) {
    (void)card; *power = 1725;
    return die || getenv("FAKE_DCMI_BOARD") ? -8255 : 0;
}
int dcmi_mcu_get_power_info(int card, int *power) {
    const char *said = getenv("FAKE_DCMI_BOARD");
    *power = said ? atoi(said) : 999;
    return card == 3 ? 0 : -1;
}
int dcmi_get_device_temperature(int card, int die, int *temperature) { (void)card; (void)die; *temperature = 41; return 0; }
int dcmi_get_device_voltage(int card, int die, unsigned *volts) { (void)card; *volts = 81; return die ? -8255 : 0; }
int dcmi_get_device_frequency(int card, int die, int kind, unsigned *mhz) {
    (void)card; (void)die;
    *mhz = 1800;
    return kind == 7 ? 0 : -1;
}
int dcmi_get_device_health(int card, int die, unsigned *health) { (void)card; *health = die && !getenv("FAKE_DCMI_QUIET") ? 2 : 0; return 0; }
int dcmi_get_device_errorcode_v2(int card, int die, int *count, unsigned *codes, unsigned most) {
    (void)card; (void)most;
    *count = die && !getenv("FAKE_DCMI_QUIET") ? 1 : 0;
    codes[0] = 0x80E01801;
    return 0;
}
int dcmi_get_device_ecc_info(int card, int die, int kind, struct ecc *found) {
    (void)card;
    memset(found, 0, sizeof *found);
    found->flag = 1;
    if (die) { found->twofold = 3; found->all_single = 14; }
    return kind == (getenv("FAKE_DCMI_DDR") ? 0 : 2) ? 0 : -1;
}
int dcmi_get_device_hbm_info(int card, int die, struct hbm *found) {
    found->size = 65536; found->usage = 3402; found->temp = 45; found->bandwidth = 0; found->freq = 1600;
    return here(card, die) ? 0 : -1;
}
int dcmi_get_device_multi_utilization_rate(int card, int die, struct multi *found) {
    (void)card; (void)die;
    memset(found, 0, sizeof *found);
    found->aicore = 12; found->aiv = 3; found->aic = 9; found->npu = 17;
    return 0;
}
int dcmi_get_device_die_v2(int card, int die, int kind, struct die *found) {
    (void)card; (void)die;
    for (unsigned at = 0; at < 4; at++) found->words[at] = at + 1;
    found->words[4] = 0xDEADBEEF;
    return kind == 1 ? 0 : -1;
}
int dcmi_get_device_network_health(int card, int die, int *result) { (void)card; (void)die; *result = 0; return 0; }
int dcmi_get_device_resource_info(int card, int die, struct user *users, int *count) {
    (void)card;
    *count = die ? 0 : 1;
    users[0].pid = 4711;
    users[0].memory = 1ul << 30;
    return 0;
}
