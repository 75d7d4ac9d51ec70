//! What probes and scrapers read of the plugin.

use super::Ldcache;
use super::http::{Page, Site};
use crate::metrics::Exposition;

impl Site for Ldcache {
    fn page(&self, path: &str, accept: &str) -> Option<Page> {
        match path {
            "/metrics" => Some(self.metrics_page(Exposition::accepted(accept))),
            // That this is answered says that the loop turns.
            "/healthz" => Some(Page::health(self.health.stuck().into_iter().collect())),
            "/readyz" => Some(Page::health(self.unready())),
            _ => None,
        }
    }
}

impl Ldcache {
    fn metrics_page(&self, exposition: Exposition) -> Page {
        self.metrics.in_flight(self.health.in_flight());
        // Now, and not when a container was created last.
        let _ = self.active().hook_file(&self.metrics);
        let text = self.metrics.expose(exposition);
        Page { good: true, content_type: exposition.content_type(), text }
    }

    /// Why GPU containers are created without a hook, if they are.
    fn unready(&self) -> Vec<String> {
        let file = self.active().hook_file(&self.metrics).err();
        let unasked = self.health.unasked().map(str::to_owned);
        let file = file.map(|fault| fault.to_string());
        [unasked, file, self.health.stuck()].into_iter().flatten().collect()
    }
}
