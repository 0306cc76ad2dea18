//! Memory that one thread holds: the allocator of every test program that has a target.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

thread_local! {
    static HELD: Cell<isize> = const { Cell::new(0) };
    static PEAK: Cell<isize> = const { Cell::new(0) };
    static MEASURED: Cell<bool> = const { Cell::new(false) };
}

/// A single request that no decoder has a reason for. It is refused while an input is run, which ends the process: the
/// input stays behind in its file.
const ABSURD: usize = 2 << 30;

/// Counts what each thread takes and gives back.
struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn took(bytes: usize) {
    let held = HELD.get().wrapping_add_unsigned(bytes);
    HELD.set(held);
    if held > PEAK.get() {
        PEAK.set(held);
    }
}

fn gave(bytes: usize) {
    HELD.set(HELD.get().wrapping_sub_unsigned(bytes));
}

fn absurd(bytes: usize) -> bool {
    bytes > ABSURD && MEASURED.get()
}

#[expect(unsafe_code, reason = "an allocator is an unsafe trait")]
// SAFETY: every call is handed on to the system's allocator unchanged, or answered with null, which the trait allows. The
// counters are plain cells without destructors: they allocate nothing and can be used at any time of a thread's life.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if absurd(layout.size()) {
            return std::ptr::null_mut();
        }
        took(layout.size());
        // SAFETY: as our caller promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        if absurd(layout.size()) {
            return std::ptr::null_mut();
        }
        took(layout.size());
        // SAFETY: as our caller promises.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        if absurd(size) {
            return std::ptr::null_mut();
        }
        gave(layout.size());
        took(size);
        // SAFETY: as our caller promises.
        unsafe { System.realloc(block, layout, size) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        gave(layout.size());
        // SAFETY: as our caller promises.
        unsafe { System.dealloc(block, layout) }
    }
}

/// Runs `f` and tells how many bytes more than before this thread held at most meanwhile.
pub fn peak<T>(f: impl FnOnce() -> T) -> (T, usize) {
    let before = HELD.get();
    PEAK.set(before);
    MEASURED.set(true);
    let result = f();
    MEASURED.set(false);
    let peak = usize::try_from(PEAK.get().wrapping_sub(before)).unwrap_or(0);
    (result, peak)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_given_back_still_counts_for_the_peak() {
        let ((), peak) = peak(|| {
            drop(Vec::<u8>::with_capacity(1000));
            let mut grows: Vec<u8> = vec![0; 3000];
            grows.resize(5000, 0);
            drop(std::thread::spawn(|| Vec::<u8>::with_capacity(1 << 20)).join());
        });
        assert!((5000..200_000).contains(&peak), "{peak}");
    }
}
