/*
 * The one file that knows what differs between DPDK releases, so that no Rust code does.
 *
 * Two things move from release to release although the C source of a program stays the same:
 *  - the nesting of anonymous unions in rte_mbuf (22.11 has markers, 24.07 and later have unions in their
 *    place) and in rte_eth_link (a union since 24.03), which bindgen turns into different Rust paths. Rust
 *    therefore sees rte_mbuf as opaque bytes and reads a field at the offset that the C compiler gives here;
 *    a link is read by a function;
 *  - macros and thread-local variables such as rte_errno, which are no symbols. They become functions.
 * A name that was renamed or removed gets its RTE_VERSION check in this file too.
 */
#ifndef NTY_DPDK_COMPAT_H
#define NTY_DPDK_COMPAT_H

#include <stddef.h>
#include <stdint.h>

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
