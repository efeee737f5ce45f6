import ApusText

extension FileSummary {
    /// The summary as JSON: `file`, `format`, `files`, `metadata`, `tensors`, `totals`, `configuration`.
    public var json: JSONValue {
        var root: JSONObject = [
            "file": .string(path), "format": .string(format),
            "files": .array(files.map { ["path": .string($0.path), "bytes": .integer(Int64($0.byteCount))] }),
            "metadata": .object(JSONObject(metadata.map { ($0.key, $0.value) })),
            "tensors": .array(tensors.map(json)),
            "totals": .object(
                JSONObject(
                    totals.map { total in
                        (
                            total.dtype,
                            [
                                "tensors": .integer(Int64(total.tensors)),
                                "elements": .integer(Int64(total.elements)),
                                "bytes": .integer(Int64(total.byteCount)),
                            ] as JSONValue
                        )
                    })),
        ]
        switch configuration {
        case .success(let configuration):
            root["configuration"] = .object(JSONObject(configuration.fields.map { ($0.name, $0.value) }))
        case .failure: root["configuration"] = .null
        }
        return .object(root)
    }

    private func json(_ tensor: TensorEntry) -> JSONValue {
        [
            "name": .string(tensor.name), "dtype": .string(tensor.dtype),
            "shape": .array(tensor.extents.map { .integer(Int64($0)) }),
            "bytes": tensor.byteCount.map { .integer(Int64($0)) } ?? .null,
        ]
    }

    /// The summary as lines of text.
    public var text: String {
        var lines = ["file: \(path)", "format: \(format)"]
        for file in files {
            let name = files.count == 1 ? "" : " \(file.path)"
            lines.append("size: \(grouped(file.byteCount)) bytes\(name)")
        }
        lines.append("metadata: \(metadata.count)")
        lines += columns(metadata.map { [$0.key.abbreviated(), shown($0.value)] })
        lines.append("tensors: \(tensors.count)")
        lines += columns(
            tensors.map {
                [$0.name.abbreviated(), $0.dtype, "\($0.extents)", $0.byteCount.map(grouped) ?? "unknown size"]
            })
        lines.append("totals:")
        lines += columns(
            totals.map {
                [
                    "\($0.dtype)", "\($0.tensors) tensors", "\(grouped($0.elements)) elements",
                    "\(grouped($0.byteCount)) bytes",
                ]
            })
        switch configuration {
        case .success(let configuration):
            lines.append("configuration:")
            lines += columns(configuration.fields.map { [$0.name, shown($0.value)] })
        case .failure(let absence): lines.append("configuration: none (\(absence))")
        }
        return lines.joined(separator: "\n")
    }

    private func shown(_ value: JSONValue) -> String {
        if let text = value.stringValue { return text.abbreviated(100) }
        if let count = value["count"]?.intValue, let type = value["type"]?.stringValue,
            let first = value["first"]?.arrayValue
        {
            let elements = first.map { $0.description.abbreviated(24) }.joined(separator: ", ")
            return "\(grouped(count)) of \(type): \(elements), ..."
        }
        return value.description.abbreviated(100)
    }

    private func columns(_ rows: [[String]]) -> [String] {
        guard let first = rows.first else { return [] }
        let widths = first.indices.map { column in rows.map { $0[column].count }.max() ?? 0 }
        return rows.map { row in
            let cells = row.enumerated().map { column, cell in
                column == row.count - 1 ? cell : cell + String(repeating: " ", count: widths[column] - cell.count)
            }
            return "  " + cells.joined(separator: "  ")
        }
    }

    private func grouped(_ value: Int) -> String {
        var digits = Array(String(value))
        var position = digits.count - 3
        while position > 0 {
            digits.insert(",", at: position)
            position -= 3
        }
        return String(digits)
    }
}

extension DecoderConfiguration {
    /// The configuration's fields under their names, for display.
    var fields: [(name: String, value: JSONValue)] {
        var fields: [(String, JSONValue)] = [
            ("architecture", .string(architecture.rawValue)), ("head", .string("\(head)")),
            ("vocabularySize", .integer(Int64(vocabularySize))), ("hiddenSize", .integer(Int64(hiddenSize))),
            ("layerCount", .integer(Int64(layerCount))), ("queryHeads", .integer(Int64(queryHeads))),
            ("kvHeads", .integer(Int64(kvHeads))), ("headWidth", .integer(Int64(headWidth))),
            ("attention", .string("\(variant)")), ("feedForwardWidth", .integer(Int64(feedForwardWidth))),
            ("activation", .string(activation.rawValue)),
            ("norm", .string(normKind.rawValue)), ("normEpsilon", .double(normEpsilon)),
            ("rotaryTheta", .double(rotary.theta)), ("rotaryWidth", .integer(Int64(rotary.width))),
            ("rotaryStyle", .string(rotary.style.rawValue)), ("rotaryScaling", .string("\(rotary.scaling)")),
            ("attentionBias", .bool(attentionBias)), ("queryKeyNorm", .bool(queryKeyNorm)),
            ("parallelResidual", .bool(parallelResidual)), ("tiesEmbeddings", .bool(tiesEmbeddings)),
            ("maxPositions", .integer(Int64(maxPositions))),
            ("slidingWindow", windows.compactMap(\.self).max().map { .integer(Int64($0)) } ?? .null),
            ("slidingLayers", .integer(Int64(windows.count { $0 != nil }))),
            ("eosTokens", .array(eosTokens.map { .integer(Int64($0)) })),
        ]
        if attention != .grouped { fields.append(("attentionWidths", .string("\(attention)"))) }
        if let experts { fields.append(("experts", .string("\(experts)"))) }
        if let bosToken { fields.append(("bosToken", .integer(Int64(bosToken)))) }
        if let weightDType { fields.append(("weightDType", .string(weightDType.rawValue))) }
        return fields
    }
}
