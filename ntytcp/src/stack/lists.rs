//! Doubly linked lists threaded through slots of a table by index: O(1) insert, remove and move, no
//! allocation.
//!
//! A [`Links`] holds one pair of neighbors per slot; a slot is in at most one [`List`] of the same `Links` at
//! a time, and the owner knows which.

/// No slot.
pub(super) const NIL: u32 = u32::MAX;

/// The neighbors of one slot.
#[derive(Clone, Copy, Debug)]
struct Link {
    prev: u32,
    next: u32,
}

/// The links of all slots of one table.
#[derive(Clone, Debug, Default)]
pub(super) struct Links(Vec<Link>);

/// One list: where it begins and ends.
#[derive(Clone, Copy, Debug)]
pub(super) struct List {
    head: u32,
    tail: u32,
}

impl List {
    /// A list without slots.
    pub(super) const EMPTY: Self = Self { head: NIL, tail: NIL };

    /// The slot that was pushed first.
    pub(super) fn head(&self) -> Option<u32> {
        (self.head != NIL).then_some(self.head)
    }
}

impl Links {
    /// Makes room for slots `0..slots`. Allocates.
    pub(super) fn grow(&mut self, slots: usize) {
        if slots > self.0.len() {
            self.0.resize(slots, Link { prev: NIL, next: NIL });
        }
    }

    /// Appends slot `i`, which is in no list, to `list`.
    pub(super) fn push_back(&mut self, list: &mut List, i: u32) {
        let prev = list.tail;
        if let Some(link) = self.0.get_mut(i as usize) {
            *link = Link { prev, next: NIL };
            match self.0.get_mut(prev as usize) {
                Some(last) => last.next = i,
                None => list.head = i,
            }
            list.tail = i;
        }
    }

    /// Takes slot `i` out of `list`, which it is in.
    pub(super) fn remove(&mut self, list: &mut List, i: u32) {
        let Some(link) = self.0.get_mut(i as usize) else { return };
        let Link { prev, next } = core::mem::replace(link, Link { prev: NIL, next: NIL });
        match self.0.get_mut(prev as usize) {
            Some(before) => before.next = next,
            None => list.head = next,
        }
        match self.0.get_mut(next as usize) {
            Some(after) => after.prev = prev,
            None => list.tail = prev,
        }
    }

    /// The slots of `list`, first to last.
    #[cfg(test)]
    pub(super) fn iter(&self, list: &List) -> impl Iterator<Item = u32> {
        core::iter::successors(list.head(), |&i| {
            self.0.get(i as usize).map(|l| l.next).filter(|&next| next != NIL)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_is_kept_over_removals_at_both_ends_and_in_the_middle() {
        let (mut links, mut list) = (Links::default(), List::EMPTY);
        links.grow(5);
        (0..5).for_each(|i| links.push_back(&mut list, i));
        for gone in [0, 2, 4] {
            links.remove(&mut list, gone);
        }
        links.push_back(&mut list, 2);
        assert_eq!(links.iter(&list).collect::<Vec<_>>(), [1, 3, 2]);
        [1, 3, 2].into_iter().for_each(|i| links.remove(&mut list, i));
        assert_eq!((list.head(), list.tail), (None, NIL));
    }
}
