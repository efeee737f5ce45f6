import ApusAttention
import ApusText
import ApusTraining
import Testing

#if canImport(FoundationEssentials)
import FoundationEssentials
#else
import Foundation
#endif

@Suite struct ComparisonReportTests {
    @Test func figuresAreThoseOfTheRuns() throws {
        let json = JSONNode(try report([("MHA", [2.0, 2.2]), ("GLA-2", [1.9, 1.9])]).json, name: "report")
        let variants = try json.child("variants").elements()
        #expect(try variants.map { try $0.string("variant") } == ["MHA", "GLA-2"])
        let loss = try variants[0].child("validationLoss")
        #expect(abs(try loss.double("mean") - 2.1) < 1e-12)
        #expect(abs(try loss.double("standardDeviation") - 0.02.squareRoot()) < 1e-12)
        #expect(abs(try variants[1].child("perplexity").double("mean") - 6.68589444) < 1e-6)
        // The medium model of the paper, at 1 and 2 devices: 4096 and 2048, 576 and 320 bytes a layer.
        let bytes = try variants.map { variant in
            try ["TP1", "TP2"].map { try variant.child("cacheBytesPerTokenAndDevice").double($0) / 24 }
        }
        #expect(bytes == [[4096, 2048], [576, 320]])
        #expect(try json.child("runs").elements().count == 4)
    }

    @Test func theReadingKeepsChanceApart() throws {
        func reading(_ losses: [(String, [Double])]) throws -> String {
            try JSONNode(report(losses).json, name: "report").string("reading")
        }
        #expect(try reading([("A", [2.0, 2.2]), ("B", [2.05, 2.1])]).contains("no difference between variants"))
        #expect(try reading([("A", [2.0, 2.01]), ("B", [3.0, 3.01])]).contains("may be chance"))
        #expect(try reading([("A", [2.0]), ("B", [3.0])]).contains("one seed a variant"))
        #expect(try reading([("A", [2.0])]).contains("nothing to compare"))
        #expect(try reading([]) == "No run has been evaluated yet.")
    }

    @Test func thePageIsWholeAndWellFormed() throws {
        let html = report([("MHA <&>", [2.0, 2.2]), ("GLA-2", [1.9, 1.91])]).html
        #expect(html.contains("MHA &lt;&amp;&gt;") && !html.contains("MHA <&>"))
        for outside in ["<script", "src=", "href=", "@import", "url(http"] { #expect(!html.contains(outside)) }
        #expect(html.components(separated: "<svg").count == 8 && html.components(separated: "</svg>").count == 8)
        #expect(!html.contains("nan") && !html.contains("inf\""))
        for tag in ["figure", "table", "tr", "td", "text", "polyline", "main"] {
            let opened = html.components(separated: "<\(tag)>").count + html.components(separated: "<\(tag) ").count - 2
            #expect(opened == html.components(separated: "</\(tag)>").count - 1, "\(tag)")
        }
        // No run, one run, and runs that never were evaluated draw without fail.
        _ = report([]).html
        _ = report([("A", [2.0])]).html
        var bare = report([("A", [2.0]), ("B", [.nan])])
        bare.runs[0].validation = []
        _ = bare.html
    }
}

extension String {
    fileprivate func components(separated separator: String) -> [Substring] {
        split(separator: separator, omittingEmptySubsequences: false)
    }
}

/// Runs with these last losses.
private func report(_ losses: [(String, [Double])]) -> ComparisonReport {
    var runs: [ComparisonReport.Run] = []
    for (name, losses) in losses {
        for (seed, loss) in losses.enumerated() {
            let curve = (1...20).map {
                ComparisonReport.Point(tokens: $0 * 100_000, loss: loss + 4 / Double($0) - 0.2)
            }
            let geometry =
                name == "GLA-2"
                ? try! CacheGeometry.gla(queryHeads: 16, latentHeads: 2, latentWidth: 128, ropeWidth: 32)
                : try! CacheGeometry.mha(queryHeads: 16, headWidth: 64)
            runs.append(
                ComparisonReport.Run(
                    variant: name, seed: seed, parameters: 5_000_000, layers: 24, geometry: geometry, training: curve,
                    validation: curve, tokensPerSecond: 5000))
        }
    }
    return ComparisonReport(title: "A comparison", setting: [("data", "books")], runs: runs)
}
