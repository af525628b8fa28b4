//! The words that two processes share, as a trait.
//!
//! The protocols (ring positions, claims, the bell) are written once over [`Memory`]. In production its words are the
//! standard atomics in a shared mapping; in the model tests they are loom's, which try every interleaving.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

/// What the protocols do with one word.
pub(crate) trait Word<T> {
    fn load(&self, order: Ordering) -> T;
    fn store(&self, value: T, order: Ordering);
    fn swap(&self, value: T, order: Ordering) -> T;
    fn fetch_or(&self, bits: T, order: Ordering) -> T;
    fn fetch_and(&self, bits: T, order: Ordering) -> T;
    fn fetch_add(&self, value: T, order: Ordering) -> T;
    fn compare_exchange(&self, current: T, new: T, success: Ordering, failure: Ordering) -> Result<T, T>;
}

/// A kind of memory with words of two sizes and a full fence.
pub(crate) trait Memory {
    type W32: Word<u32>;
    type W64: Word<u64>;
    /// Sequentially consistent: a store before it and a load behind it keep their order.
    fn fence();
}

macro_rules! word {
    ($atomic:ty, $value:ty) => {
        impl $crate::words::Word<$value> for $atomic {
            #[inline(always)]
            fn load(&self, order: std::sync::atomic::Ordering) -> $value {
                <$atomic>::load(self, order)
            }
            #[inline(always)]
            fn store(&self, value: $value, order: std::sync::atomic::Ordering) {
                <$atomic>::store(self, value, order)
            }
            #[inline(always)]
            fn swap(&self, value: $value, order: std::sync::atomic::Ordering) -> $value {
                <$atomic>::swap(self, value, order)
            }
            #[inline(always)]
            fn fetch_or(&self, bits: $value, order: std::sync::atomic::Ordering) -> $value {
                <$atomic>::fetch_or(self, bits, order)
            }
            #[inline(always)]
            fn fetch_and(&self, bits: $value, order: std::sync::atomic::Ordering) -> $value {
                <$atomic>::fetch_and(self, bits, order)
            }
            #[inline(always)]
            fn fetch_add(&self, value: $value, order: std::sync::atomic::Ordering) -> $value {
                <$atomic>::fetch_add(self, value, order)
            }
            #[inline(always)]
            fn compare_exchange(
                &self,
                current: $value,
                new: $value,
                success: std::sync::atomic::Ordering,
                failure: std::sync::atomic::Ordering,
            ) -> Result<$value, $value> {
                <$atomic>::compare_exchange(self, current, new, success, failure)
            }
        }
    };
}
#[cfg(test)]
pub(crate) use word;

word!(AtomicU32, u32);
word!(AtomicU64, u64);

/// Memory that other processes have mapped too.
pub(crate) struct Shared;

impl Memory for Shared {
    type W32 = AtomicU32;
    type W64 = AtomicU64;
    #[inline(always)]
    fn fence() {
        fence(Ordering::SeqCst)
    }
}

/// Keeps a word away from its neighbours: two cache lines, because the hardware fetches them in pairs.
#[repr(C, align(128))]
#[derive(Debug, Default)]
pub(crate) struct Line<T>(pub T);
