import ApusPlanning
import ApusText
import Testing

@Suite struct StepCalibrationTests {
    private let calibration = StepCalibration(
        model: "m", device: "CPU", parameters: 10, layers: [.init(rows: 1, seconds: 2), .init(rows: 4, seconds: 5)],
        head: [.init(rows: 2, seconds: 1)], secondsPerContext: 0.25, secondsPerPair: 0.125, secondsPerDraw: 0.5,
        secondsPerStep: 3, exactTokens: 128)

    @Test func timesAddUp() {
        var work = StepWork()
        #expect(calibration.seconds(work) == 0)
        work.addDecode(context: 8, window: calibration.window)
        // Layers 2, head 1 (of one row as of two), context 8 / 4, a draw 0.5, a step 3.
        #expect(calibration.seconds(work) == 8.5)
        work.addPrompt(start: 2, count: 2, window: calibration.window, reachesEnd: true)
        // Layers 4 (three rows lie between one and four), head 1, context 2, pairs 7 / 8, draws 1, a step 3.
        #expect(calibration.seconds(work) == 11.875)
        work.addPrompt(start: 0, count: 5, window: calibration.window, reachesEnd: false)
        // Layers 10 (beyond the last point in proportion), pairs 22 / 8.
        #expect(calibration.seconds(work) == 19.75)
    }

    @Test func stepsWithoutPromptsHaveTheirOwnTable() {
        var calibration = calibration
        calibration.decoding = [
            .init(rows: 1, seconds: 1, secondsPerContext: 0.5), .init(rows: 4, seconds: 1.5, secondsPerContext: 0.125),
        ]
        var work = StepWork()
        for _ in 0..<2 { work.addDecode(context: 8, window: calibration.window) }
        // Two rows as four: 1.5, context 16 / 8, draws 1, a step 3.
        #expect(calibration.seconds(work) == 7.5)
        for _ in 0..<6 { work.addDecode(context: 8, window: calibration.window) }
        // Eight rows: 3, context 64 / 8, draws 4, a step 3.
        #expect(calibration.seconds(work) == 18)
        work.addPrompt(start: 0, count: 2, window: calibration.window, reachesEnd: false)
        // Layers 12.5 and head 4 (ten and eight rows in proportion), context 8, pairs 3 / 8, draws 4, a step 3.
        #expect(calibration.seconds(work) == 31.875)
    }

    @Test(arguments: [false, true]) func jsonGoesThereAndBack(hasDecoding: Bool) throws {
        var calibration = calibration
        if hasDecoding { calibration.decoding = [.init(rows: 3, seconds: 1, secondsPerContext: 0.5)] }
        let text = calibration.json.serialized(.pretty)
        #expect(try StepCalibration(json: JSONNode(try JSONValue(parsing: text), name: "c.json")) == calibration)
    }

    @Test(arguments: [
        "[]", "{}", #"{"model": "m", "device": "d", "parameters": 0}"#,
        #"{"model": "m", "device": "d", "parameters": 1, "layers": [], "head": []}"#,
        #"{"model": "m", "device": "d", "parameters": 1, "layers": [{"rows": 2, "seconds": 1}, {"rows": 2, "seconds": 1}], "head": []}"#,
        #"{"model": "m", "device": "d", "parameters": 1, "layers": [{"rows": 2, "seconds": -1}], "head": []}"#,
        #"{"model": "m", "device": "d", "parameters": 1, "layers": [{"rows": 2, "seconds": 1e400}], "head": []}"#,
        #"{"model": "m", "device": "d", "parameters": 1, "layers": [{"rows": 2, "seconds": 1}], "head": [{"rows": 2, "seconds": 1}], "decoding": [{"rows": 2, "seconds": 1}], "secondsPerContext": 0, "secondsPerPair": 0, "secondsPerDraw": 0, "secondsPerStep": 0}"#,
    ]) func badFilesAreErrors(text: String) {
        #expect(throws: JSONError.self) {
            try StepCalibration(json: JSONNode(try JSONValue(parsing: text), name: "c.json"))
        }
    }
}
