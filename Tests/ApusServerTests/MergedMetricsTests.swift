import ApusServer
import Testing

@Suite struct MergedMetricsTests {
    private func text(_ running: Int, _ seen: Int) -> String {
        """
        # HELP apus:num_requests_running Requests in steps.
        # TYPE apus:num_requests_running gauge
        apus:num_requests_running{model_name="a"} \(running)
        # TYPE apus:wait_seconds histogram
        apus:wait_seconds_bucket{model_name="a",le="0.5"} \(seen)
        apus:wait_seconds_count{model_name="a"} \(seen)
        process_open_fds 7

        """
    }

    @Test func familiesStandTogetherAndSamplesNameTheirReplica() {
        var merged = MergedMetrics()
        #expect(merged.isEmpty)
        merged.add(text(1, 3), replica: 0)
        merged.add(text(2, 5), replica: 1)
        #expect(
            merged.text == """
                # HELP apus:num_requests_running Requests in steps.
                # TYPE apus:num_requests_running gauge
                apus:num_requests_running{replica="0",model_name="a"} 1
                apus:num_requests_running{replica="1",model_name="a"} 2
                # TYPE apus:wait_seconds histogram
                apus:wait_seconds_bucket{replica="0",model_name="a",le="0.5"} 3
                apus:wait_seconds_count{replica="0",model_name="a"} 3
                apus:wait_seconds_bucket{replica="1",model_name="a",le="0.5"} 5
                apus:wait_seconds_count{replica="1",model_name="a"} 5
                process_open_fds{replica="0"} 7
                process_open_fds{replica="1"} 7

                """)
    }

    @Test func labelsThatAreEmptyAndTextsThatAreNoMetrics() {
        var merged = MergedMetrics()
        merged.add("#\n# only words\nup{} 1\n\r\n", replica: 4)
        #expect(merged.text == "# only words\nup{replica=\"4\"} 1\n")
        #expect(MergedMetrics().text == "")
    }
}
