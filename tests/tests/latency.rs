//! What the sidecar measures is what nginx logged for the same requests, within 1 ms plus 1 %.

use std::time::Duration;

use podtap_tests::load::Until;
use podtap_tests::load::http::{HttpLoad, Route};
use podtap_tests::system::{System, Wish, alone};
use podtap_tests::{Failure, Result, wait};

/// Allowed difference: 1 ms plus 1 %.
fn is_close(measured: f64, logged: f64) -> bool {
    (measured - logged).abs() <= 1e6 + logged * 0.01
}

#[test]
fn quantiles_match_those_of_the_access_log() -> Result<()> {
    let _alone = alone();
    let system = System::start(Wish { source: "pcap", kafka: false, application: true, rules: None })?;
    let mut loads = Vec::new();
    for (path, endpoint, rate, count) in [("/slow/50", "GET /slow/{id}", 60, 900), ("/slow/500", "GET /slow/{id}", 20, 300)] {
        let routes = vec![Route::get(1, path, endpoint)];
        let load = HttpLoad { target: system.target(), connections: 16, rate, routes, until: Until::Count(count) };
        loads.push((path, count, load.start()));
    }
    for (path, count, load) in loads {
        assert_eq!(load.finish()?.total(), count);
        let stored = format!("SELECT count() FROM requests FINAL WHERE url_path = '{path}' AND side = 'server'");
        wait::until_true("all slow requests in ClickHouse", Duration::from_secs(60), || match system.clickhouse.number(&stored)? {
            stored if stored == count => Ok(true),
            stored => Err(Failure(format!("{stored} of {count} are there"))),
        })?;
        let lines = system.nginx.access_log()?;
        let mut logged: Vec<u64> = lines.iter().filter(|line| line.path == path).map(|line| line.request_time_ns).collect();
        assert_eq!(logged.len() as u64, count);
        logged.sort_unstable();
        for (level, name) in [(0.5, "p50"), (0.99, "p99")] {
            let logged = logged[((count as f64 * level).ceil() as usize).saturating_sub(1)] as f64;
            let sql = format!(
                "SELECT quantileExact({level})(time_to_last_byte_ns) FROM requests FINAL WHERE url_path = '{path}' AND side = 'server'"
            );
            let measured = system.clickhouse.number(&sql)? as f64;
            println!("{path} {name}: nginx {:.1} ms, Podtap {:.3} ms", logged / 1e6, measured / 1e6);
            assert!(is_close(measured, logged), "{path} {name}: nginx logged {logged} ns, Podtap measured {measured} ns");
        }
    }
    // The merged buckets of both paths say the same as the records, within their 1 %.
    for level in [0.5, 0.99] {
        let exact = system.clickhouse.number(&format!(
            "SELECT quantileExactLow({level})(time_to_last_byte_ns) FROM requests FINAL \
             WHERE url_template = '/slow/{{id}}' AND side = 'server'"
        ))? as f64;
        let merged = system.clickhouse.number(&format!(
            "SELECT podtap_quantile({level}, sumMap(time_to_last_byte_ns_buckets)) FROM red \
             WHERE endpoint = 'GET /slow/{{id}}' AND side = 'server'"
        ))? as f64;
        assert!((merged - exact).abs() <= exact * 0.01, "quantile {level}: buckets {merged} ns, records {exact} ns");
    }
    Ok(())
}
