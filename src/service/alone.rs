//! Several futures in one task, of which only those are polled that were woken.
//!
//! The two directions of a spliced stream share a task, and to poll one costs the lock of the whole connection: for every
//! piece that went one way, the other way would be asked in vain.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

/// A future that is not polled unless it was woken itself. It begins woken.
#[derive(Debug)]
pub(super) struct Alone<F> {
    future: F,
    bell: Arc<Bell>,
    waker: Waker,
}

/// What wakes one future, and the task that it is in.
#[derive(Debug)]
struct Bell {
    rung: AtomicBool,
    task: Mutex<Waker>,
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        // A second ring before the first was heard says nothing new: the task has been woken by the first.
        if !self.rung.swap(true, Ordering::AcqRel) {
            self.task.lock().unwrap_or_else(PoisonError::into_inner).wake_by_ref();
        }
    }
}

impl<F> Alone<F> {
    pub(super) fn new(future: F) -> Self {
        let bell = Arc::new(Bell { rung: AtomicBool::new(true), task: Mutex::new(Waker::noop().clone()) });
        let waker = Waker::from(Arc::clone(&bell));
        Self { future, bell, waker }
    }
}

impl<F: Future + Unpin> Future for Alone<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        {
            // Before the bell is looked at: whoever rings after that wakes the task that asks now.
            let mut task = self.bell.task.lock().unwrap_or_else(PoisonError::into_inner);
            if !task.will_wake(cx.waker()) {
                task.clone_from(cx.waker());
            }
        }
        if !self.bell.rung.swap(false, Ordering::AcqRel) {
            return Poll::Pending;
        }
        let this = &mut *self;
        Pin::new(&mut this.future).poll(&mut Context::from_waker(&this.waker))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;

    /// A future that is ready after a number of polls, and hands its waker out.
    struct Polled {
        left: usize,
        waker: Arc<Mutex<Option<Waker>>>,
    }

    impl Future for Polled {
        type Output = ();

        fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
            *self.waker.lock().unwrap() = Some(cx.waker().clone());
            self.left -= 1;
            if self.left == 0 { Poll::Ready(()) } else { Poll::Pending }
        }
    }

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn a_future_is_polled_once_per_wake_and_its_task_is_woken_once() {
        let (inner, count) = (Arc::new(Mutex::new(None)), Arc::new(Count::default()));
        let task = Waker::from(Arc::clone(&count));
        let mut alone = Alone::new(Polled { left: 3, waker: Arc::clone(&inner) });
        let mut poll = || Pin::new(&mut alone).poll(&mut Context::from_waker(&task));
        let ring = || inner.lock().unwrap().clone().unwrap().wake();
        assert!(poll().is_pending(), "polled once, for it begins woken");
        // Polled for the sake of others it stays where it is.
        assert!(poll().is_pending() && poll().is_pending() && poll().is_pending());
        ring();
        ring();
        assert_eq!(count.0.load(Ordering::Relaxed), 1);
        assert!(poll().is_pending(), "polled twice");
        assert!(poll().is_pending());
        ring();
        assert_eq!(count.0.load(Ordering::Relaxed), 2);
        assert!(poll().is_ready());
    }

    #[test]
    fn a_task_that_took_over_is_the_one_that_is_woken() {
        let inner = Arc::new(Mutex::new(None));
        let (first, second) = (Arc::new(Count::default()), Arc::new(Count::default()));
        let mut alone = Alone::new(Polled { left: 2, waker: Arc::clone(&inner) });
        for count in [&first, &second] {
            let task = Waker::from(Arc::clone(count));
            assert!(Pin::new(&mut alone).poll(&mut Context::from_waker(&task)).is_pending());
        }
        inner.lock().unwrap().clone().unwrap().wake();
        assert_eq!((first.0.load(Ordering::Relaxed), second.0.load(Ordering::Relaxed)), (0, 1));
    }
}
