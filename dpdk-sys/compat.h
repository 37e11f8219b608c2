/*
 * The one file that knows what differs between DPDK releases, so that no Rust code does.
 *
 * Two things move from release to release although the C source of a program stays the same:
 *  - the nesting of anonymous unions in rte_mbuf (22.11 has markers, 24.07 and later have unions in their
 *    place) and in rte_eth_link (a union since 24.03), which bindgen turns into different Rust paths. Rust
 *    therefore sees rte_mbuf as opaque bytes and reads a field at the offset that the C compiler gives here;
 *    a link is read by a function;
 *  - macros and thread-local variables such as rte_errno, which are no symbols. They become functions.
 * A name that was renamed or removed gets its RTE_VERSION check in this file too. Up to 26.07 there is none
 * among those that are bound; that logging is a library of its own since 23.11 is for build.rs, which links.
 */
#ifndef NTY_DPDK_COMPAT_H
#define NTY_DPDK_COMPAT_H

#include <stddef.h>
#include <stdint.h>
#include <sys/epoll.h>

#if RTE_VERSION < RTE_VERSION_NUM(22, 11, 0, 0)
#error "DPDK 22.11 or newer is needed"
#endif

/* Where the fields of rte_mbuf are, in bytes. */
enum nty_mbuf_offset {
	NTY_MBUF_BUF_ADDR = offsetof(struct rte_mbuf, buf_addr),
	NTY_MBUF_DATA_OFF = offsetof(struct rte_mbuf, data_off),
	NTY_MBUF_NB_SEGS = offsetof(struct rte_mbuf, nb_segs),
	NTY_MBUF_PKT_LEN = offsetof(struct rte_mbuf, pkt_len),
	NTY_MBUF_DATA_LEN = offsetof(struct rte_mbuf, data_len),
	NTY_MBUF_BUF_LEN = offsetof(struct rte_mbuf, buf_len),
	NTY_MBUF_NEXT = offsetof(struct rte_mbuf, next),
	NTY_MBUF_OL_FLAGS = offsetof(struct rte_mbuf, ol_flags),
	NTY_MBUF_VLAN_TCI = offsetof(struct rte_mbuf, vlan_tci),
	NTY_MBUF_RSS_HASH = offsetof(struct rte_mbuf, hash.rss),
	NTY_MBUF_TX_OFFLOAD = offsetof(struct rte_mbuf, tx_offload),
};

/* Where the parts of tx_offload begin, in bits. */
enum nty_tx_offload_bit {
	NTY_TX_L2_LEN_BIT = RTE_MBUF_L2_LEN_OFS,
	NTY_TX_L3_LEN_BIT = RTE_MBUF_L3_LEN_OFS,
	NTY_TX_L4_LEN_BIT = RTE_MBUF_L4_LEN_OFS,
	NTY_TX_TSO_SEGSZ_BIT = RTE_MBUF_TSO_SEGSZ_OFS,
};

/* The widths that src/mbuf.rs reads and writes at those offsets. */
#define NTY_MBUF_WIDTH(field, type)                                                                \
	_Static_assert(sizeof(((struct rte_mbuf *)0)->field) == sizeof(type), "width of rte_mbuf." #field)
NTY_MBUF_WIDTH(buf_addr, void *);
NTY_MBUF_WIDTH(data_off, uint16_t);
NTY_MBUF_WIDTH(nb_segs, uint16_t);
NTY_MBUF_WIDTH(pkt_len, uint32_t);
NTY_MBUF_WIDTH(data_len, uint16_t);
NTY_MBUF_WIDTH(buf_len, uint16_t);
NTY_MBUF_WIDTH(next, struct rte_mbuf *);
NTY_MBUF_WIDTH(ol_flags, uint64_t);
NTY_MBUF_WIDTH(vlan_tci, uint16_t);
NTY_MBUF_WIDTH(hash.rss, uint32_t);
NTY_MBUF_WIDTH(tx_offload, uint64_t);

/* Flags and capabilities are macros over UINT64_C, of which bindgen makes nothing. */
#define NTY_FLAG(name, value) static const uint64_t name = value
NTY_FLAG(NTY_RX_VLAN_STRIPPED, RTE_MBUF_F_RX_VLAN_STRIPPED);
NTY_FLAG(NTY_RX_RSS_HASH, RTE_MBUF_F_RX_RSS_HASH);
NTY_FLAG(NTY_RX_LRO, RTE_MBUF_F_RX_LRO);
NTY_FLAG(NTY_RX_L4_CKSUM_MASK, RTE_MBUF_F_RX_L4_CKSUM_MASK);
NTY_FLAG(NTY_RX_L4_CKSUM_GOOD, RTE_MBUF_F_RX_L4_CKSUM_GOOD);
NTY_FLAG(NTY_RX_L4_CKSUM_NONE, RTE_MBUF_F_RX_L4_CKSUM_NONE);
NTY_FLAG(NTY_TX_VLAN, RTE_MBUF_F_TX_VLAN);
NTY_FLAG(NTY_TX_TCP_SEG, RTE_MBUF_F_TX_TCP_SEG);
NTY_FLAG(NTY_TX_TCP_CKSUM, RTE_MBUF_F_TX_TCP_CKSUM);
NTY_FLAG(NTY_TX_UDP_CKSUM, RTE_MBUF_F_TX_UDP_CKSUM);
NTY_FLAG(NTY_TX_IP_CKSUM, RTE_MBUF_F_TX_IP_CKSUM);
NTY_FLAG(NTY_TX_IPV4, RTE_MBUF_F_TX_IPV4);
NTY_FLAG(NTY_TX_IPV6, RTE_MBUF_F_TX_IPV6);
/* What a flag says of the buffer, not of the packet. */
NTY_FLAG(NTY_BUFFER_FLAGS, RTE_MBUF_F_EXTERNAL | RTE_MBUF_F_INDIRECT);

NTY_FLAG(NTY_RX_OFFLOAD_VLAN_STRIP, RTE_ETH_RX_OFFLOAD_VLAN_STRIP);
NTY_FLAG(NTY_RX_OFFLOAD_IPV4_CKSUM, RTE_ETH_RX_OFFLOAD_IPV4_CKSUM);
NTY_FLAG(NTY_RX_OFFLOAD_UDP_CKSUM, RTE_ETH_RX_OFFLOAD_UDP_CKSUM);
NTY_FLAG(NTY_RX_OFFLOAD_TCP_CKSUM, RTE_ETH_RX_OFFLOAD_TCP_CKSUM);
NTY_FLAG(NTY_RX_OFFLOAD_TCP_LRO, RTE_ETH_RX_OFFLOAD_TCP_LRO);
NTY_FLAG(NTY_RX_OFFLOAD_SCATTER, RTE_ETH_RX_OFFLOAD_SCATTER);
NTY_FLAG(NTY_RX_OFFLOAD_RSS_HASH, RTE_ETH_RX_OFFLOAD_RSS_HASH);
NTY_FLAG(NTY_TX_OFFLOAD_VLAN_INSERT, RTE_ETH_TX_OFFLOAD_VLAN_INSERT);
NTY_FLAG(NTY_TX_OFFLOAD_IPV4_CKSUM, RTE_ETH_TX_OFFLOAD_IPV4_CKSUM);
NTY_FLAG(NTY_TX_OFFLOAD_UDP_CKSUM, RTE_ETH_TX_OFFLOAD_UDP_CKSUM);
NTY_FLAG(NTY_TX_OFFLOAD_TCP_CKSUM, RTE_ETH_TX_OFFLOAD_TCP_CKSUM);
NTY_FLAG(NTY_TX_OFFLOAD_TCP_TSO, RTE_ETH_TX_OFFLOAD_TCP_TSO);
NTY_FLAG(NTY_TX_OFFLOAD_MULTI_SEGS, RTE_ETH_TX_OFFLOAD_MULTI_SEGS);
/* Flows are spread by addresses and, of TCP and UDP, ports. */
NTY_FLAG(NTY_RSS_FLOWS, RTE_ETH_RSS_IP | RTE_ETH_RSS_TCP | RTE_ETH_RSS_UDP);

/* rte_errno of the calling thread. */
static inline int nty_rte_errno(void)
{
	return rte_errno;
}

/* Whether the calling thread has an lcore id: it is one of EAL's own threads, or it was registered. */
static inline int nty_has_lcore(void)
{
	return rte_lcore_id() != LCORE_ID_ANY;
}

/*
 * Puts the interrupt of a receive queue into an epoll, or takes it out. That a port has none is an answer,
 * which ethdev would log as an error.
 */
static inline int nty_rx_intr(uint16_t port, uint16_t queue, int epoll, int add)
{
	int op = add ? RTE_INTR_EVENT_ADD : RTE_INTR_EVENT_DEL;
	int ethdev = rte_log_register("lib.ethdev");
	int level = ethdev < 0 ? -1 : rte_log_get_level(ethdev);
	int status;

	if (level >= 0)
		rte_log_set_level(ethdev, RTE_LOG_EMERG);
	status = rte_eth_dev_rx_intr_ctl_q(port, queue, epoll, op, NULL);
	if (level >= 0)
		rte_log_set_level(ethdev, level);
	return status;
}

/*
 * Has the epoll tell for as long as there is something to receive, not once. EAL puts a descriptor there that tells once; where
 * it is the one that packets are read from, and reading may come too early, that one time would be lost.
 */
static inline int nty_rx_intr_stays(uint16_t port, uint16_t queue, int epoll)
{
	struct epoll_event event = { .events = EPOLLIN };
	int fd = rte_eth_dev_rx_intr_ctl_q_get_fd(port, queue);

	return fd < 0 ? -1 : epoll_ctl(epoll, EPOLL_CTL_MOD, fd, &event);
}

/* The link without waiting for it: 0 and *up, *mbps (UINT32_MAX: unknown), or a negative errno. */
static inline int nty_eth_link(uint16_t port, int *up, uint32_t *mbps)
{
	struct rte_eth_link link = {0};
	int status = rte_eth_link_get_nowait(port, &link);

	*up = link.link_status == RTE_ETH_LINK_UP;
	*mbps = link.link_speed;
	return status;
}

#endif
