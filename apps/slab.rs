//! Connections under names that are never used twice.

/// Values under 64-bit tokens, such as the user data of an epoll.
///
/// ```text
/// token   generation (32 bits) | index (32 bits)
/// ```
///
/// A slot that is emptied changes its generation. So a token that is still in a batch of events when its connection is closed, and
/// its slot taken by the next, finds nothing. No token has an index of 2^32 - 1: `u64::MAX` is free for something else.
#[derive(Debug)]
pub(crate) struct Slab<T> {
    slots: Vec<Slot<T>>,
    free: Vec<u32>,
}

#[derive(Debug)]
struct Slot<T> {
    generation: u32,
    value: Option<T>,
}

fn token(generation: u32, index: u32) -> u64 {
    u64::from(generation) << 32 | u64::from(index)
}

/// Generation and index; the parts are cut out on purpose.
fn parts(token: u64) -> (u32, usize) {
    ((token >> 32) as u32, token as u32 as usize)
}

impl<T> Slab<T> {
    /// An empty one.
    pub(crate) const fn new() -> Self {
        Self { slots: Vec::new(), free: Vec::new() }
    }

    /// How many values there are.
    pub(crate) fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Keeps `value` under a new token. `None`, and the value is dropped, when there are 2^32 - 1 already.
    pub(crate) fn insert(&mut self, value: T) -> Option<u64> {
        if let Some(index) = self.free.pop() {
            let slot = self.slots.get_mut(index as usize)?;
            slot.value = Some(value);
            return Some(token(slot.generation, index));
        }
        let index = u32::try_from(self.slots.len()).ok().filter(|&index| index < u32::MAX)?;
        self.slots.push(Slot { generation: 0, value: Some(value) });
        Some(token(0, index))
    }

    /// The value under `token`, if it is still there.
    pub(crate) fn get_mut(&mut self, token: u64) -> Option<&mut T> {
        let (generation, index) = parts(token);
        self.slots.get_mut(index).filter(|slot| slot.generation == generation)?.value.as_mut()
    }

    /// Takes out the value under `token`, if it is still there.
    pub(crate) fn remove(&mut self, token: u64) -> Option<T> {
        let (generation, index) = parts(token);
        let slot = self.slots.get_mut(index).filter(|slot| slot.generation == generation)?;
        let value = slot.value.take()?;
        slot.generation = slot.generation.wrapping_add(1);
        self.free.push(index as u32);
        Some(value)
    }

    /// All values, in no order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &T> {
        self.slots.iter().filter_map(|slot| slot.value.as_ref())
    }

    /// Drops the values that `keep` does not want.
    pub(crate) fn retain(&mut self, mut keep: impl FnMut(&T) -> bool) {
        for (index, slot) in (0..).zip(&mut self.slots) {
            if slot.value.as_ref().is_some_and(|value| !keep(value)) {
                slot.value = None;
                slot.generation = slot.generation.wrapping_add(1);
                self.free.push(index);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_outlives_its_value_and_finds_nothing() {
        let mut slab = Slab::new();
        let (a, b) = (slab.insert('a').unwrap(), slab.insert('b').unwrap());
        assert_eq!(slab.remove(a), Some('a'));
        let c = slab.insert('c').unwrap();
        assert_eq!((c as u32, slab.len()), (a as u32, 2), "the slot is used again");
        assert_eq!(slab.get_mut(a), None);
        assert_eq!(slab.remove(a), None);
        assert_eq!(slab.get_mut(b), Some(&mut 'b'));
        assert_eq!(slab.get_mut(c), Some(&mut 'c'));
        assert_eq!(slab.get_mut(u64::MAX), None);
    }

    #[test]
    fn what_is_not_kept_is_as_if_removed() {
        let mut slab = Slab::new();
        let tokens: Vec<_> = (0..10).map(|n| slab.insert(n).unwrap()).collect();
        slab.retain(|n| n % 2 == 0);
        assert_eq!(slab.iter().copied().collect::<Vec<_>>(), [0, 2, 4, 6, 8]);
        assert_eq!(slab.len(), 5);
        assert!(tokens.iter().all(|&t| slab.get_mut(t).is_none_or(|n| *n % 2 == 0)));
        let again: Vec<_> = (0..6).map(|n| slab.insert(n).unwrap()).collect();
        assert!(again.iter().all(|t| !tokens.contains(t)));
        slab.retain(|_| false);
        assert_eq!(slab.len(), 0);
    }
}
