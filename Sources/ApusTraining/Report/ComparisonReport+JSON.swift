import ApusText

extension ComparisonReport {
    /// The report's figures: setting, runs with their curves, and for each variant mean and spread.
    public var json: JSONValue {
        var root = JSONObject()
        root["title"] = .string(title)
        root["setting"] = .object(JSONObject(setting.map { ($0.name, JSONValue.string($0.value)) }))
        root["reading"] = .string(reading)
        root["bytesPerElement"] = .double(bytesPerElement)
        root["variants"] = .array(
            variants.map { variant in
                var object = JSONObject()
                object["variant"] = .string(variant.name)
                object["parameters"] = .integer(Int64(variant.runs.first?.parameters ?? 0))
                object["seeds"] = .array(variant.runs.map { .integer(Int64($0.seed)) })
                object["validationLoss"] = Self.json(variant.loss)
                object["perplexity"] = Self.json(variant.perplexity)
                object["cacheBytesPerTokenAndDevice"] = .object(
                    JSONObject(
                        Self.ranks.map { ranks in
                            let bytes = variant.cacheBytes(ranks: ranks, bytesPerElement: bytesPerElement)
                            return ("TP\(ranks)", bytes.map { .double($0) } ?? .null)
                        }))
                return .object(object)
            })
        root["runs"] = .array(
            runs.map { run in
                var object = JSONObject()
                object["variant"] = .string(run.variant)
                object["seed"] = .integer(Int64(run.seed))
                object["parameters"] = .integer(Int64(run.parameters))
                object["layers"] = .integer(Int64(run.layers))
                object["cacheElementsPerTokenAndLayer"] = .integer(Int64(run.geometry.elementsPerToken))
                object["tokensPerSecond"] = run.tokensPerSecond.map { Self.number($0) } ?? .null
                object["training"] = Self.json(run.training)
                object["validation"] = Self.json(run.validation)
                return .object(object)
            })
        return .object(root)
    }

    private static func json(_ points: [Point]) -> JSONValue {
        .array(points.map { .array([.integer(Int64($0.tokens)), number($0.loss)]) })
    }

    private static func json(_ statistics: Statistics?) -> JSONValue {
        guard let statistics else { return .null }
        return [
            "mean": number(statistics.mean), "standardDeviation": statistics.deviation.map { number($0) } ?? .null,
            "lowest": number(statistics.lowest), "highest": number(statistics.highest),
        ]
    }

    /// NaN and infinities are no JSON.
    private static func number(_ value: Double) -> JSONValue {
        value.isFinite ? .double(value) : .string("\(value)")
    }
}
