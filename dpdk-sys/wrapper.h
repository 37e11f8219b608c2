/*
 * What bindgen reads. The allow-list in build.rs says which of these declarations are bound; a header that
 * declares a new one is included here. rte_config.h and -march come from the command line, as DPDK's
 * pkg-config file wants.
 */
#ifndef NTY_DPDK_WRAPPER_H
#define NTY_DPDK_WRAPPER_H

#include <rte_bus_vdev.h>
#include <rte_dev.h>
#include <rte_eal.h>
#include <rte_errno.h>
#include <rte_eth_ring.h>
#include <rte_ethdev.h>
#include <rte_interrupts.h>
#include <rte_lcore.h>
#include <rte_log.h>
#include <rte_mbuf.h>
#include <rte_mempool.h>
#include <rte_ring.h>
#include <rte_version.h>

#include "compat.h"

#endif
