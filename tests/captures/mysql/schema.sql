CREATE DATABASE shop;
CREATE DATABASE other;
CREATE TABLE shop.items (id INT PRIMARY KEY, name VARCHAR(40) NOT NULL, price DECIMAL(8,2), added DATETIME) CHARSET utf8mb4;
USE shop;
INSERT INTO items SELECT seq, CONCAT('item ', seq), seq * 1.25, '2024-02-29 12:00:00' FROM seq_1_to_50;
CREATE TABLE blobs (id INT PRIMARY KEY, data MEDIUMTEXT);
INSERT INTO blobs VALUES (1, REPEAT('x', 100)), (2, REPEAT('y', 40000)), (3, REPEAT('z', 10));
DELIMITER //
CREATE PROCEDURE two_results() BEGIN SELECT id FROM items WHERE id <= 3; SELECT name, price FROM items WHERE id <= 2; END //
DELIMITER ;
CREATE USER pt@'%' IDENTIFIED BY 'secret';
GRANT ALL ON shop.* TO pt@'%';
GRANT ALL ON other.* TO pt@'%';
GRANT RELOAD, PROCESS ON *.* TO pt@'%';
